package natsd

import (
	"io/fs"
	"path/filepath"
)

// A Disk is what the data directory lies on.
type Disk struct {
	FileSystem string // a name, or empty if it is not one of those that are known
	InMemory   bool   // nothing of it outlives the machine
	NoFlush    bool   // a flush of the whole file system does nothing, and says that all is well
	Free       int64  // bytes that are left for the store
	Store      int64  // bytes that the store takes
}

// LookAtDisk looks at a data directory, which need not have a store yet. It starts nothing. It
// fails if there is no such directory, and on a system that is not Linux.
func LookAtDisk(dir string) (Disk, error) {
	d, err := statDisk(dir)
	if err != nil {
		return d, err
	}
	_ = filepath.WalkDir(filepath.Join(dir, "jetstream"), func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil // a file that has gone meanwhile
		}
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() {
			d.Store += info.Size()
		}
		return nil
	})
	return d, nil
}
