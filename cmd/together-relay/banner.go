package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"together-relay/adapters/natsd"
)

// secretPlace says where the secret of the default source comes from.
func (s *settings) secretPlace() string {
	own := s.allSources()[defaultSource]
	switch {
	case s.secrets.webhook != "" || s.secrets.webhookFile != "":
		return "of the environment"
	case len(own.Secrets) > 0 || own.SecretFile != "":
		return "of " + s.config
	default:
		return devSecretPath(s.embedded.Dir)
	}
}

// printBanner shows a newcomer what to paste.
func printBanner(w io.Writer, s *settings, url, natsURL string, admin net.Listener) {
	fmt.Fprintf(w, `
  together-relay is running, on this machine only. A delivery is answered 200 once it is on disk.

    webhooks   %s/webhooks/together
    schemas    %s/schemas/
    NATS       %s
    store      %s
    secret     %s
`, url, url, natsURL, s.embedded.Dir, s.secretPlace())
	if admin != nil {
		fmt.Fprintf(w, "    metrics    http://%s/metrics\n", admin.Addr())
	}
	switch {
	case s.watch.simulate:
		fmt.Fprintf(w, `    watching   a made-up Together; to ask it with wait and reconcile:

    export TOGETHER_BASE_URL=%s TOGETHER_API_KEY=%s
`, s.watch.base, simKey)
	case s.watches():
		fmt.Fprintf(w, "    watching   %s, with TOGETHER_API_KEY\n", s.watch.base)
	}
	self := os.Args[0]
	if path, err := os.Executable(); err == nil && strings.Contains(path, "go-build") {
		self = "go run ./cmd/together-relay"
	}
	extra := ""
	if s.origin["data-dir"] != "default" {
		extra = " --data-dir " + s.embedded.Dir
	}
	login := ""
	if s.closed() {
		login = fmt.Sprintf(` --user %s --password "$(cat '%s')"`, natsd.OperatorUser, s.keys().PasswordFile(natsd.OperatorUser))
	}
	fmt.Fprintf(w, `
  In another terminal:

    %[1]s trigger fine_tune.completed%[2]s
    %[1]s events --follow%[2]s
    nats --server %[3]s%[4]s sub 'together.>'

`, self, extra, natsURL, login)
}
