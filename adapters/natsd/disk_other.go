//go:build !linux

package natsd

import "errors"

func statDisk(string) (Disk, error) {
	return Disk{}, errors.New("the disk cannot be looked at on this system")
}
