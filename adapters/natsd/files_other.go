//go:build !unix

package natsd

func mostFiles() uint64 { return 0 }
