package httpd

import (
	"io"
	"slices"
	"sync"
)

// A buffer holds one request's body. It is lent from a pool and given back.
type buffer struct {
	bytes []byte
	home  *[]byte
}

var buffers = sync.Pool{New: func() any { return new(make([]byte, 0, 4<<10)) }}

// maxPooled is the largest buffer in bytes that waits for another use.
const maxPooled = 64 << 10

// newBuffer lends a buffer for a body of the declared length; below zero it is not known.
func newBuffer(length int64) buffer {
	home := buffers.Get().(*[]byte)
	b := buffer{bytes: (*home)[:0], home: home}
	// No more than that is believed before it arrives.
	if 0 < length && length <= maxPooled {
		b.bytes = slices.Grow(b.bytes, int(length)+1)
	}
	return b
}

// fill reads r to its end, but no more than limit bytes.
func (b *buffer) fill(r io.Reader, limit int64) error {
	for {
		b.bytes = slices.Grow(b.bytes, 512)
		n, err := r.Read(b.bytes[len(b.bytes):cap(b.bytes)])
		b.bytes = b.bytes[:len(b.bytes)+n]
		switch {
		case int64(len(b.bytes)) > limit:
			return errBodyTooLarge
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

func (b *buffer) free() {
	if cap(b.bytes) <= maxPooled {
		*b.home = b.bytes[:0]
	}
	buffers.Put(b.home)
}
