package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"together-relay/adapters/jetstream"
	"together-relay/adapters/natsd"
	"together-relay/adapters/together"
)

func newDoctor() *cobra.Command {
	var output string
	var strict bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check the set-up, and say which failures it survives",
		Long: `Looks at the set-up from outside and prints what it finds, why it matters and what to do; then
which failures the set-up survives without losing an event that was answered 200. It changes nothing.
Give it the settings of serve: it compares what is there with what is configured.

The exit code is 1 if there is an error, with --strict also if there is a warning.`,
		Example: `  together-relay doctor
  together-relay doctor --strict -o json
  NATS_URL=nats://nats:4222 RELAY_REPLICAS=3 together-relay doctor --monitor http://nats:8222`,
		Args: cobra.NoArgs,
	}
	s := newSettings(cmd.Flags(), forAll|forNATS|forServe|forAPI)
	cmd.Flags().BoolVar(&strict, "strict", false, "fail if there is a warning, for CI")
	outputFlag(cmd, &output)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := s.asClient(); err != nil {
			return err
		}
		f, err := s.gather(cmd.Context())
		if err != nil {
			return err
		}
		found := diagnose(f)
		show := printDiagnosis
		if output == "json" {
			show = printDiagnosisJSON
		}
		if err := show(cmd.OutOrStdout(), found, survivals(f)); err != nil {
			return err
		}
		if errs, warnings := count(found, levelError), count(found, levelWarning); errs > 0 || strict && warnings > 0 {
			return errors.New(summary(found))
		}
		return nil
	}
	return cmd
}

func count(all []finding, level string) int {
	n := 0
	for _, one := range all {
		if one.Level == level {
			n++
		}
	}
	return n
}

func summary(all []finding) string {
	return several(count(all, levelError), "error") + ", " + several(count(all, levelWarning), "warning")
}

func several(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// gather asks everybody who knows something of the set-up.
func (s *settings) gather(ctx context.Context) (facts, error) {
	var err error
	if s.stream.Prefixes, err = s.prefixes(); err != nil {
		return facts{}, err
	}
	s.stream.Batches = s.nats.url != ""
	reader, err := s.reader()
	if err != nil {
		return facts{}, err
	}
	defer reader.Close()
	seen, err := reader.Inspect(ctx, s.stream)
	if err != nil {
		return facts{}, err
	}
	if s.nats.url == "" {
		s.asRunning()
	}
	f := s.facts(ctx, seen)
	f.files = s.secretFiles()
	if f.ready, f.readyErr = s.askReady(ctx); ctx.Err() != nil {
		return f, ctx.Err()
	}
	api, err := s.openAPI(nil)
	if err != nil {
		return f, err
	}
	if f.key = api != nil; f.key {
		defer api.Close()
		asking, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		_, f.whoami = api.WhoAmI(asking)
	}
	return f, nil
}

// facts are what the settings say, beside what was seen of NATS.
func (s *settings) facts(ctx context.Context, seen jetstream.Inspection) facts {
	f := facts{
		embedded: s.nats.url == "", sync: s.embedded.Sync, nats: seen, replicas: s.stream.Replicas, maxBody: int64(s.http.maxBody),
		listen: s.http.listen, publicURL: s.http.publicURL, tolerance: s.tolerance(),
	}
	f.teams = len(s.teams)
	if f.embedded {
		f.disk, f.diskErr = natsd.LookAtDisk(s.embedded.Dir)
		f.closed = s.closed()
		f.natsListen = slices.DeleteFunc([]string{s.embedded.Listen, s.embedded.Websocket}, func(a string) bool { return a == "" })
		return f
	}
	if u, err := url.Parse(strings.TrimSpace(strings.Split(s.nats.url, ",")[0])); err == nil {
		f.natsHost = u.Hostname()
	}
	f.monitors = jetstream.Monitor(ctx, s.monitor)
	return f
}

// asRunning replaces what is configured by what the relay that runs has noted: it may have been
// started with other flags.
func (s *settings) asRunning() {
	r, err := readRunning(s.embedded.Dir)
	if err != nil || r.Sync == "" {
		return
	}
	s.embedded.Sync, s.embedded.Listen, s.embedded.Websocket = r.Sync, r.NATSListen, r.Websocket
	s.http.listen, s.http.publicURL = r.Listen, r.PublicURL
}

// askReady asks the relay whether it could store; it answers with the reason, or empty.
func (s *settings) askReady(ctx context.Context) (reason string, err error) {
	address := localURL(s.http.listen)
	if r, err := readRunning(s.embedded.Dir); s.nats.url == "" && err == nil && r.URL != "" {
		address = r.URL
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/readyz", nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer closeQuietly(resp.Body)
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	switch resp.StatusCode {
	case http.StatusOK:
		return "", nil
	case http.StatusServiceUnavailable:
		return "the relay is not ready: " + strings.TrimSpace(string(text)), nil
	}
	return "", fmt.Errorf("GET %s/readyz answers %s", address, resp.Status)
}

// tolerance is the smallest of the sources whose timestamp is looked at.
func (s *settings) tolerance() time.Duration {
	least := together.DefaultTolerance
	for _, source := range s.allSources() {
		if source.Timestamp == "required" && source.Tolerance > 0 {
			least = min(least, source.Tolerance)
		}
	}
	return least
}

// secretFiles are the modes of the files that hold secrets. One that is not there is told by
// those who need it.
func (s *settings) secretFiles() map[string]fs.FileMode {
	paths := []string{s.secrets.webhookFile, s.secrets.apiKeyFile, s.nats.auth.PasswordFile, s.nats.auth.Creds, s.nats.auth.NKey, s.nats.auth.Key}
	if s.dev {
		paths = append(paths, devSecretPath(s.embedded.Dir))
	}
	for _, source := range s.allSources() {
		paths = append(paths, source.SecretFile)
	}
	paths = append(paths, s.keys().Files()...)
	modes := map[string]fs.FileMode{}
	for _, path := range paths {
		if path == "" {
			continue
		}
		if info, err := os.Stat(path); err == nil {
			modes[filepath.Clean(path)] = info.Mode()
		}
	}
	return modes
}

// accept refuses a set-up with which a promise does not hold, and says each reason in the log.
func (s *settings) accept(ctx context.Context, seen jetstream.Inspection, log zerolog.Logger) error {
	bad := broken(diagnose(s.facts(ctx, seen)))
	if len(bad) == 0 {
		return nil
	}
	lines := make([]string, len(bad))
	for i, one := range bad {
		log.Error().Str("check", one.Check).Str("found", one.Found).Str("why", one.Why).Str("do", one.Do).Msg("the set-up breaks a promise")
		lines[i] = one.Found
	}
	return fmt.Errorf("it breaks a promise, and strict is set: %s; together-relay doctor says more", strings.Join(lines, "; "))
}

func printDiagnosis(w io.Writer, found []finding, left []survival) error {
	for _, one := range found {
		fmt.Fprintf(w, "%-8s %-20s %s\n", one.Level, one.Check, printable(one.Found))
		for _, more := range [][2]string{{"why", one.Why}, {"do", one.Do}} {
			if more[1] != "" && one.Level != levelOK {
				fmt.Fprintf(w, "%29s %-4s %s\n", "", more[0], printable(more[1]))
			}
		}
	}
	fmt.Fprint(w, "\nIs every event that was answered 200 still there after a\n")
	for _, one := range left {
		fmt.Fprintf(w, "  %-20s %-8s %s\n", one.Failure, one.Survives, one.Why)
	}
	_, err := fmt.Fprintf(w, "\n%s\n", summary(found))
	return err
}

// printDiagnosisJSON writes a line for each finding, then one for each failure.
func printDiagnosisJSON(w io.Writer, found []finding, left []survival) error {
	var lines []any
	for _, one := range found {
		lines = append(lines, one)
	}
	for _, one := range left {
		lines = append(lines, one)
	}
	for _, one := range lines {
		if err := writeJSON(w, one); err != nil {
			return err
		}
	}
	return nil
}
