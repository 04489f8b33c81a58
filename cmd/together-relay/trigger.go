package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"together-relay/adapters/together"
	"together-relay/schemas"
)

type triggerFlags struct {
	source, url, id, data, output string
	set                           []string
	count                         int
	rate                          float64
	wrongSignature                bool
}

func newTrigger() *cobra.Command {
	var f triggerFlags
	cmd := &cobra.Command{
		Use:   "trigger TYPE",
		Short: "Send the relay a signed sample, through the front door",
		Long: `Makes a delivery of the type, signs it and posts it. The types with a schema have a sample;
any other type begins with empty data. The answer is printed, one line for each delivery.

The exit code is 0 if every delivery was answered 200 or 202, or 401 with --wrong-signature.`,
		Example: `  together-relay trigger fine_tune.completed
  together-relay trigger fine_tune.completed --set data.fine_tune_id=ft-1 --set data.eval_loss=null
  together-relay trigger batch.done --data @batch.json --id evt_1
  together-relay trigger fine_tune.checkpoint --count 100 --rate 20
  together-relay trigger model.deprecated --wrong-signature`,
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return schemas.Types(), cobra.ShellCompDirectiveNoFileComp
		},
	}
	s := newSettings(cmd.Flags(), forAll)
	fl := cmd.Flags()
	fl.StringVar(&f.source, "source", defaultSource, "`name` of the source")
	fl.StringVar(&f.url, "url", "", "`URL` to post to; by default that of the running relay")
	fl.StringVar(&f.id, "id", "", "event `id`; by default a new one for each delivery")
	fl.StringVar(&f.data, "data", "", "the data as `JSON`, or @FILE, or @- for standard input; its bytes are sent as they are")
	fl.StringArrayVar(&f.set, "set", nil, "`path=value`: a member of the delivery; the value is JSON, or else a string")
	fl.IntVar(&f.count, "count", 1, "how many `deliveries` to send")
	fl.Float64Var(&f.rate, "rate", 0, "`deliveries` a second; 0 is as fast as they are answered")
	fl.BoolVar(&f.wrongSignature, "wrong-signature", false, "sign with a secret that nobody knows")
	outputFlag(cmd, &f.output)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := s.asClient(); err != nil {
			return err
		}
		return trigger(cmd.Context(), s, f, args[0], cmd.InOrStdin(), cmd.OutOrStdout())
	}
	return cmd
}

func trigger(ctx context.Context, s *settings, f triggerFlags, typ string, stdin io.Reader, stdout io.Writer) error {
	if f.count < 1 || f.rate < 0 {
		return usagef("--count must be positive, and --rate must not be negative")
	}
	source, err := f.signer(s)
	if err != nil {
		return err
	}
	sample, err := newSample(typ, f, stdin)
	if err != nil {
		return err
	}
	url := f.url
	if url == "" {
		base, err := s.url()
		if err != nil {
			return err
		}
		url = base + "/webhooks/" + f.source
	}
	pace := time.NewTicker(time.Hour)
	defer pace.Stop()
	if f.rate > 0 {
		pace.Reset(max(time.Duration(float64(time.Second)/f.rate), time.Microsecond))
	}
	failed := 0
	for i := range f.count {
		if f.rate > 0 && i > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-pace.C:
			}
		}
		body, err := sample.body()
		if err != nil {
			return err
		}
		status, answer, err := post(ctx, url, source, body)
		if err != nil {
			return err
		}
		if err := printAnswer(stdout, f.output, status, answer); err != nil {
			return err
		}
		if good := status == http.StatusOK || status == http.StatusAccepted; good == f.wrongSignature ||
			f.wrongSignature && status != http.StatusUnauthorized {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d deliveries were not answered as they should; for 401 set TOGETHER_WEBHOOK_SECRET as the relay has it", failed, f.count)
	}
	return nil
}

// signer is the source to sign for, by the secrets of the running relay.
func (f triggerFlags) signer(s *settings) (*together.Source, error) {
	sources, err := s.openSources()
	if err != nil {
		return nil, err
	}
	source, ok := sources[f.source]
	switch {
	case f.wrongSignature && !ok:
		source, err = together.NewSource(together.Config{Name: f.source}, [][]byte{[]byte(randomHex(16))})
		return source, err
	case !ok && len(sources) == 0:
		return nil, usagef("no secret to sign with: set TOGETHER_WEBHOOK_SECRET as the relay has it, or --data-dir to the directory of serve --dev (now %s)", s.embedded.Dir)
	case !ok:
		return nil, usagef("no source %q; there is %s", f.source, strings.Join(sortedNames(sources), ", "))
	case f.wrongSignature:
		return source, source.Rotate([][]byte{[]byte(randomHex(16))})
	}
	return source, nil
}

// post sends a signed body and returns the answer.
func post(ctx context.Context, url string, source *together.Source, body []byte) (status int, answer []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, usagef("%w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "together-relay/"+version())
	for name, value := range source.Sign(body, time.Now()) {
		req.Header.Set(name, value)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("post to %s: %w; is it running?", url, errors.Unwrap(err))
	}
	defer closeQuietly(resp.Body)
	answer, err = io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, answer, err
}

// client posts for the verbs. It follows no redirect: a signed body is meant for one place.
var client = &http.Client{ //nolint:gochecknoglobals // never changed; one pool of connections for all verbs
	Timeout:       30 * time.Second,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func printAnswer(w io.Writer, output string, status int, answer []byte) error {
	var a struct {
		ID, Subject, Reason, Detail, Error string
		Sequence                           uint64
		Duplicate                          bool
		DeadLettered                       bool `json:"dead_lettered"`
	}
	err := json.Unmarshal(answer, &a)
	if output == "json" && err == nil {
		var compact bytes.Buffer
		if err := json.Compact(&compact, answer); err != nil {
			return err
		}
		rest := strings.TrimPrefix(compact.String(), "{")
		if strings.HasPrefix(rest, `"type":"about:blank"`) { // a problem says its status itself
			_, err = fmt.Fprintf(w, "{%s\n", rest)
		} else {
			_, err = fmt.Fprintf(w, "{\"status\":%d,%s\n", status, rest)
		}
		return err
	}
	switch {
	case err != nil:
		_, err = fmt.Fprintf(w, "%d  %s\n", status, http.StatusText(status))
	case a.Error != "":
		_, err = fmt.Fprintf(w, "%d  %s: %s\n", status, a.Error, a.Detail)
	case a.DeadLettered:
		_, err = fmt.Fprintf(w, "%d  dead letter, %s: %s\n", status, a.Reason, a.Detail)
	case a.Subject != "":
		what := "stored"
		if a.Duplicate {
			what = "duplicate"
		}
		_, err = fmt.Fprintf(w, "%d  %s  %s  %s  seq %d\n", status, what, a.ID, a.Subject, a.Sequence)
	default:
		_, err = fmt.Fprintf(w, "%d  %s\n", status, http.StatusText(status))
	}
	return err
}

// A sample is a delivery to be written again and again.
type sample struct {
	id      string          // empty is a new one each time
	typ     string          // may be anything: wrong ones are worth trying
	data    json.RawMessage // the bytes to send
	members map[string]any  // further ones, and those that replace the usual
}

func newSample(typ string, f triggerFlags, stdin io.Reader) (*sample, error) {
	smp := &sample{id: f.id, typ: typ, data: json.RawMessage("{}"), members: map[string]any{}}
	if text, err := schemas.Example(typ); err == nil {
		var example struct{ Data json.RawMessage }
		if err := json.Unmarshal(text, &example); err != nil {
			return nil, fmt.Errorf("read sample of %s: %w", typ, err)
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, example.Data); err != nil {
			return nil, fmt.Errorf("read sample of %s: %w", typ, err)
		}
		smp.data = compact.Bytes()
	}
	if f.data != "" {
		text, err := readArgument(f.data, stdin)
		if err != nil {
			return nil, usagef("--data: %w", err)
		}
		smp.data = bytes.TrimSpace(text)
	}
	for _, assignment := range f.set {
		path, value, ok := strings.Cut(assignment, "=")
		if !ok || path == "" {
			return nil, usagef("--set %s: write it as path=value", assignment)
		}
		if err := smp.set(strings.Split(path, "."), value); err != nil {
			return nil, usagef("--set %s: %w", assignment, err)
		}
	}
	return smp, nil
}

// readArgument is the text itself, or that of @FILE, or of standard input for @-.
func readArgument(arg string, stdin io.Reader) ([]byte, error) {
	path, ok := strings.CutPrefix(arg, "@")
	switch {
	case !ok:
		return []byte(arg), nil
	case path == "-":
		return io.ReadAll(stdin)
	default:
		return os.ReadFile(path)
	}
}

// set changes one member of the delivery.
func (smp *sample) set(path []string, text string) error {
	var value any = text
	if json.Valid([]byte(text)) {
		value = json.RawMessage(text)
	}
	if path[0] != "data" || len(path) == 1 {
		if path[0] == "data" {
			raw, err := json.Marshal(value)
			smp.data = raw
			return err
		}
		return assign(smp.members, path, value)
	}
	data := map[string]any{}
	dec := json.NewDecoder(bytes.NewReader(smp.data))
	dec.UseNumber()
	if err := dec.Decode(&data); err != nil {
		return fmt.Errorf("data is no object: %w", err)
	}
	if err := assign(data, path[1:], value); err != nil {
		return err
	}
	raw, err := marshal(data)
	smp.data = raw
	return err
}

func assign(into map[string]any, path []string, value any) error {
	for _, name := range path[:len(path)-1] {
		next, ok := into[name].(map[string]any)
		if !ok {
			if into[name] != nil {
				return fmt.Errorf("%s is no object", name)
			}
			next = map[string]any{}
			into[name] = next
		}
		into = next
	}
	into[path[len(path)-1]] = value
	return nil
}

// body writes the delivery: id, type, created_at, data, then what else was set.
func (smp *sample) body() ([]byte, error) {
	id := smp.id
	if id == "" {
		id = "evt_" + randomHex(16)
	}
	usual := map[string]any{"id": id, "type": smp.typ, "created_at": time.Now().UTC().Format("2006-01-02T15:04:05.000Z"), "data": smp.data}
	names := []string{"id", "type", "created_at", "data"}
	for _, name := range sortedNames(smp.members) {
		if _, ok := usual[name]; !ok {
			names = append(names, name)
		}
		usual[name] = smp.members[name]
	}
	var b bytes.Buffer
	for i, name := range names {
		b.WriteByte("{,"[min(i, 1)])
		key, err := marshal(name)
		if err != nil {
			return nil, err
		}
		b.Write(key)
		b.WriteByte(':')
		if raw, ok := usual[name].(json.RawMessage); ok {
			b.Write(raw) // as it is, not even compacted
			continue
		}
		value, err := marshal(usual[name])
		if err != nil {
			return nil, err
		}
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

func randomHex(n int) string {
	raw := make([]byte, n)
	_, _ = rand.Read(raw) // never fails
	return hex.EncodeToString(raw)
}
