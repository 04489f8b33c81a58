package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// The power cuts. The store lies on a file system in an image. For one moment the processes
// that write to it stand still, in the middle of their work, and the image is copied: the
// copy holds what had reached the disk, and nothing that was still in memory. A fresh server
// opens the copy, and must find all that had been answered before that moment. (A disk that
// says that it has flushed and has not is beyond this.)

func powerCutEmbedded(r *rig) func() {
	r.senders = manySenders
	img := r.newImage()
	u := r.addRelay(launch{dir: filepath.Join(img.dir, "data")}, "")
	return func() {
		r.cutPower([]image{img}, []int{u.cmd.Process.Pid}, func(dirs []string) (string, []*broker) {
			b := node{store: filepath.Join(dirs[0], "data")}.startBroker(r.t)
			return b.url, []*broker{b}
		})
	}
}

func powerCutOutside(r *rig) func() {
	r.senders = manySenders
	img := r.newImage()
	b := node{store: filepath.Join(img.dir, "data")}.startBroker(r.t)
	r.addRelay(launch{}, b.url)
	return func() { r.cutPower([]image{img}, []int{b.cmd.Process.Pid}, r.reopen) }
}

// reopen starts a fresh server on the copy of a broker's store.
func (r *rig) reopen(dirs []string) (string, []*broker) {
	r.t.Helper()
	b := node{store: filepath.Join(dirs[0], "data")}.startBroker(r.t)
	return b.url, []*broker{b}
}

func powerCutCluster(r *rig) func() {
	images := []image{r.newImage(), r.newImage(), r.newImage()}
	c := r.startCluster(func(i int) string { return filepath.Join(images[i].dir, "data") })
	r.addClusterRelay(c)
	return func() {
		var pids []int
		for _, b := range c.nodes {
			pids = append(pids, b.cmd.Process.Pid)
		}
		r.cutPower(images, pids, func(dirs []string) (string, []*broker) {
			again := r.startCluster(func(i int) string { return filepath.Join(dirs[i], "data") })
			again.waitWhole()
			return again.urls(), again.nodes
		})
	}
}

// An image is a file system in a file.
type image struct{ path, dir string }

// newImage makes a file system and mounts it until the test ends. Nothing is written to it
// that was not flushed, as far as the system can be told.
func (r *rig) newImage() image {
	r.t.Helper()
	img := image{path: filepath.Join(r.t.TempDir(), "disk.img"), dir: r.t.TempDir()}
	if os.Geteuid() != 0 {
		r.skip("only root can mount a disk for it")
	}
	if err := os.WriteFile(img.path, nil, 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Truncate(img.path, int64(128+8**faultRounds)<<20); err != nil {
		r.t.Fatal(err)
	}
	if said, err := exec.Command("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", img.path).CombinedOutput(); err != nil {
		r.skip(fmt.Sprintf("no disk for it: mkfs.ext4: %v: %s", err, said))
	}
	r.mount(img.dir, "-o", "loop,commit=300", img.path)
	return img
}

// cutPower copies the images as they are at one moment, has a fresh server open them, and
// holds what it finds against what was answered until then.
func (r *rig) cutPower(images []image, pids []int, open func(dirs []string) (string, []*broker)) {
	r.t.Helper()
	for _, v := range r.tryPower(images, pids, open) {
		r.t.Errorf("round %d, after the power cut: %s", r.round, v)
	}
}

func (r *rig) tryPower(images []image, pids []int, open func(dirs []string) (string, []*broker)) []violation {
	r.t.Helper()
	copies, dirs := make([]string, len(images)), make([]string, len(images))
	for i := range images {
		copies[i], dirs[i] = filepath.Join(r.t.TempDir(), "copy.img"), r.t.TempDir()
	}
	at := r.history.now()
	r.standStill(pids, func() {
		for i, img := range images {
			if said, err := exec.Command("cp", "--sparse=always", img.path, copies[i]).CombinedOutput(); err != nil {
				r.t.Errorf("copy the disk: %v: %s", err, said)
			}
		}
	})
	for i := range copies {
		r.mount(dirs[i], "-o", "loop", copies[i])
	}
	url, brokers := open(dirs)
	found := readStored(r.t, url)
	for _, b := range brokers {
		b.end(r.t, syscall.SIGKILL)
	}
	for i := range copies {
		r.unmount(dirs[i])
		_ = os.Remove(copies[i]) // the room is for the next round
	}
	return judge(r.history.record(nil).asOf(at, found))
}

// standStill stops the processes while do runs.
func (r *rig) standStill(pids []int, do func()) {
	r.t.Helper()
	defer func() {
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
	}()
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			r.t.Fatal(err)
		}
	}
	waitStopped(r.t, pids...)
	do()
}
