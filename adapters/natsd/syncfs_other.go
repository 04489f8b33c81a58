//go:build !linux

package natsd

import (
	"errors"
	"os"
)

const canFlush = false

func syncfs(*os.File) error { return errors.ErrUnsupported }
