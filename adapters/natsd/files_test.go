package natsd

import "testing"

func TestConnectionsLeaveFiles(t *testing.T) {
	t.Parallel()
	for files, want := range map[uint64]int{0: 65536, 1024: 512, 20_000: 10_000, 1 << 20: 65536, 1<<64 - 1: 65536} {
		if got := connectionsFor(files); got != want {
			t.Errorf("connectionsFor(%d) = %d, want %d", files, got, want)
		}
	}
	s := startServer(t, local(t))
	v, err := s.ns.Varz(nil)
	if err != nil {
		t.Fatal(err)
	}
	if files := mostFiles(); v.MaxConn != connectionsFor(files) {
		t.Errorf("the server takes %d connections, with %d files", v.MaxConn, files)
	}
}
