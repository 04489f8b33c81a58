package natsd

import "github.com/nats-io/nats-server/v2/server"

// connectionsFor is how many connections the server takes where the process may have so many open
// files. The other half is for the store and for HTTP: whoever connects, with a password or
// without, must not keep the store from opening its files.
func connectionsFor(files uint64) int {
	if files == 0 || files/2 > server.DEFAULT_MAX_CONNECTIONS {
		return server.DEFAULT_MAX_CONNECTIONS
	}
	return int(files / 2)
}
