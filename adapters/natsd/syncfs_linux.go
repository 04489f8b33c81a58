package natsd

import (
	"os"

	"golang.org/x/sys/unix"
)

// canFlush says that a whole file system can be flushed by one call that reports errors.
const canFlush = true

// syncfs flushes the file system that the file lies on: new files, renames and all. It
// reports every write that failed since the file was opened (Linux 5.8 and later).
func syncfs(file *os.File) error {
	for {
		if err := unix.Syncfs(int(file.Fd())); err != unix.EINTR {
			return os.NewSyscallError("syncfs", err)
		}
	}
}
