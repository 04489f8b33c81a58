package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// diskFullEmbedded and diskFullOutside take the room away under load and give it back. A
// server whose write failed wants to be started again, and so it is.
func diskFullEmbedded(r *rig) func() {
	disk := r.mountMemory()
	u := r.addRelay(launch{dir: filepath.Join(disk, "data")}, "")
	return func() {
		r.fill(disk)
		r.restart(u)
	}
}

func diskFullOutside(r *rig) func() {
	disk := r.mountMemory()
	b := node{store: filepath.Join(disk, "store")}.startBroker(r.t)
	r.addRelay(launch{}, b.url)
	return func() {
		r.fill(disk)
		b.end(r.t, syscall.SIGKILL)
		b.start(r.t)
		b.waitHealthy(r.t)
	}
}

// fill takes all of the disk but a little, waits until the senders feel it, and gives it back.
func (r *rig) fill(disk string) {
	r.t.Helper()
	felt := r.history.count(http.StatusServiceUnavailable)
	ballast := filepath.Join(disk, "ballast")
	file, err := os.Create(ballast)
	if err != nil {
		r.t.Fatal(err)
	}
	size, err := io.Copy(file, zeroes{})
	if !errors.Is(err, syscall.ENOSPC) {
		r.t.Fatal(err)
	}
	if err := file.Truncate(size - r.rng.Int64N(256<<10)); err != nil {
		r.t.Fatal(err)
	}
	closeQuietly(file)
	within(r.t, 2*patience, "the disk is full", func() bool { return r.history.count(http.StatusServiceUnavailable) > felt+3 })
	hold(r.between(0, 500*time.Millisecond))
	if err := os.Remove(ballast); err != nil {
		r.t.Fatal(err)
	}
}

// zeroes never ends.
type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// mountMemory mounts a small file system until the test ends.
func (r *rig) mountMemory() string {
	r.t.Helper()
	dir := r.t.TempDir()
	r.mount(dir, "-t", "tmpfs", "-o", fmt.Sprintf("size=%dm", 64+4**faultRounds), "tmpfs")
	return dir
}

// mount mounts onto the directory until the test ends.
func (r *rig) mount(dir string, args ...string) {
	r.t.Helper()
	if os.Geteuid() != 0 {
		r.skip("only root can mount a disk for it")
	}
	if said, err := exec.Command("mount", append(args, dir)...).CombinedOutput(); err != nil {
		r.skip(fmt.Sprintf("no disk for it: mount: %v: %s", err, said))
	}
	r.t.Cleanup(func() { r.unmount(dir) })
}

// unmount undoes a mount, if it is there still.
func (r *rig) unmount(dir string) {
	r.t.Helper()
	within(r.t, patience, "the disk is unmounted", func() bool {
		if text, err := os.ReadFile("/proc/mounts"); err == nil && !strings.Contains(string(text), " "+dir+" ") {
			return true // by somebody before
		}
		return exec.Command("umount", dir).Run() == nil
	})
}
