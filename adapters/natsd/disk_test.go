package natsd

import (
	"os"
	"path/filepath"
	"testing"
)

func TestLookAtDisk(t *testing.T) {
	t.Parallel()
	if !canFlush {
		t.Skip("the disk cannot be looked at on this system")
	}
	dir := t.TempDir()
	d, err := LookAtDisk(dir)
	if err != nil || d.Store != 0 || d.Free <= 0 {
		t.Errorf("an empty directory is seen as %+v, %v", d, err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "jetstream", "acc"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"jetstream/acc/1.blk", "jetstream/2.blk", "other"} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 100), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if d, err = LookAtDisk(dir); err != nil || d.Store != 200 {
		t.Errorf("a store of 200 bytes is seen as %+v, %v", d, err)
	}
	if _, err := LookAtDisk(filepath.Join(dir, "none")); err == nil {
		t.Error("a directory that is not there was seen")
	}
}
