package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

// TestMain makes the test binary itself the command together-relay: under that name it
// runs main, in a process of its own.
func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "-test.fuzzworker") {
		os.Exit(m.Run()) // it runs no command, and is ended before it could tidy up
	}
	// Otherwise the race detector keeps each process for a second at its end.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE")); err != nil {
		panic(err)
	}
	testscript.Main(tidy{m}, map[string]func(){
		"together-relay": main, "test-nats-server": brokerMain, "test-broken-relay": brokenMain, "test-reference": referenceMain,
	})
}

// tidy fails a run that leaves a goroutine behind.
type tidy struct{ *testing.M }

func (m tidy) Run() int {
	code := m.M.Run()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

const secret = "s3cret-of-the-tests"

// withSecret is the environment of a relay that knows the secret.
var withSecret = []string{"TOGETHER_WEBHOOK_SECRET=" + secret}

// A launch says how to start a relay.
type launch struct {
	dir  string // data directory; a new one if empty
	env  []string
	args []string
}

// A process is a running relay. It is ended with the test.
type process struct {
	dir              string
	url, admin, nats string
	log, out         *output

	cmd    *exec.Cmd
	ended  chan struct{}
	client *http.Client
}

// start runs serve on free ports and waits until it serves; that need not mean that it is ready.
func (l launch) start(t testing.TB) *process {
	t.Helper()
	if l.dir == "" {
		l.dir = filepath.Join(t.TempDir(), "data")
	}
	path, err := exec.LookPath("together-relay")
	if err != nil {
		t.Fatal(err)
	}
	p := &process{
		dir: l.dir, log: &output{}, out: &output{}, ended: make(chan struct{}),
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: patience},
	}
	args := []string{"serve", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--nats-listen=127.0.0.1:0", "--data-dir=" + l.dir}
	p.cmd = exec.Command(path, append(args, l.args...)...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = t.TempDir(), p.out, p.log
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "GORACE", "GOCOVERDIR"} {
		p.cmd.Env = append(p.cmd.Env, name+"="+os.Getenv(name))
	}
	p.cmd.Env = append(p.cmd.Env, l.env...)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // its outcome is in ProcessState
		close(p.ended)
	}()
	t.Cleanup(func() { p.cleanup(t) })
	line := p.waitLog(t, "relay starts")
	p.url, p.admin, p.nats = "http://"+line["listen"].(string), "http://"+line["admin"].(string), line["nats"].(string)
	return p
}

// login is where NATS listens, with what the operator logs in with; without teams there is nothing.
func (p *process) login(t testing.TB) string {
	t.Helper()
	address, err := operatorURL(p.nats, p.dir)
	if err != nil {
		t.Fatal(err)
	}
	return address
}

func operatorURL(address, dir string) (string, error) {
	password, err := os.ReadFile(filepath.Join(dir, "keys", "together-operator.password"))
	if errors.Is(err, fs.ErrNotExist) {
		return address, nil
	}
	return strings.Replace(address, "://", "://together-operator:"+strings.TrimSpace(string(password))+"@", 1), err
}

func (p *process) cleanup(t testing.TB) {
	t.Helper()
	p.client.CloseIdleConnections()
	if !p.hasEnded() {
		p.stop(t)
	}
	for line := range strings.Lines(p.log.String()) {
		if !json.Valid([]byte(line)) && !strings.HasPrefix(line, "together-relay: ") {
			t.Errorf("this is no log line: %s", line) // a panic, say, or a data race
		}
	}
	if t.Failed() {
		t.Logf("log of the relay:\n%s", p.log)
	}
}

// stop ends the relay in good order.
func (p *process) stop(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGTERM)
	if state := p.wait(t); state.ExitCode() != 0 {
		t.Errorf("the relay ended with %s, want exit code 0", state)
	}
}

// kill ends the relay as a power cut would.
func (p *process) kill(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGKILL)
	p.wait(t)
}

func (p *process) signal(t testing.TB, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal %s: %v", s, err)
	}
}

func (p *process) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// wait blocks until the process has ended; one that does not is killed.
func (p *process) wait(t testing.TB) *os.ProcessState {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
		<-p.ended
		t.Errorf("the relay did not end:\n%s", p.log)
	}
	return p.cmd.ProcessState
}

// waitLog blocks until there is a log line with the message, and returns it.
func (p *process) waitLog(t testing.TB, message string) map[string]any {
	t.Helper()
	return p.waitLine(t, message, func(line map[string]any) bool { return line["message"] == message })
}

func (p *process) waitLine(t testing.TB, what string, is func(map[string]any) bool) (found map[string]any) {
	t.Helper()
	eventually(t, "log line: "+what, func() bool {
		ended := p.hasEnded() // whatever it wrote is there by then
		for _, line := range p.log.lines() {
			if is(line) {
				found = line
				return true
			}
		}
		if ended {
			t.Fatalf("the relay ended with %s:\n%s", p.cmd.ProcessState, p.log)
		}
		return false
	})
	return found
}

// waitReady blocks until the relay says that it could store an event, and has made the streams that no
// event needs to be stored. A server in this process that is ended before that loses a goroutine.
func (p *process) waitReady(t testing.TB) *process {
	t.Helper()
	eventually(t, "ready", func() bool {
		status, _ := p.get(t, p.url+"/readyz")
		return status == http.StatusOK
	})
	p.waitLog(t, "ready to store")
	return p
}

func (p *process) get(t testing.TB, url string) (status int, body string) {
	t.Helper()
	resp, err := p.client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer closeQuietly(resp.Body)
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// An answer is what the relay says to a delivery.
type answer struct {
	Status int
	Header http.Header

	ID, Subject, Reason, Detail, Error string
	Sequence                           uint64
	Duplicate                          bool
	DeadLettered                       bool `json:"dead_lettered"`
}

// deliver posts the body to the source.
func (p *process) deliver(source string, body []byte, header map[string]string) (answer, error) {
	var a answer
	req, err := http.NewRequest(http.MethodPost, p.url+"/webhooks/"+source, bytes.NewReader(body))
	if err != nil {
		return a, err
	}
	req.Header.Set("Content-Type", "application/json")
	for name, value := range header {
		req.Header.Set(name, value)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return a, err
	}
	defer closeQuietly(resp.Body)
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		return a, err
	}
	a.Status, a.Header = resp.StatusCode, resp.Header
	return a, nil
}

// send posts the body to the default source, signed.
func (p *process) send(secret string, body []byte) (answer, error) {
	return p.deliver("together", body, map[string]string{"X-Together-Signature": sign(secret, body)})
}

// mustSend is send whose answer has the status.
func (p *process) mustSend(t testing.TB, body []byte, status int) answer {
	t.Helper()
	a, err := p.send(secret, body)
	if err != nil {
		t.Fatal(err)
	}
	if a.Status != status {
		t.Fatalf("the answer is %+v, want %d", a, status)
	}
	return a
}

// sign is written anew here, from the contract: lower-case hex HMAC-SHA256.
func sign(secret string, parts ...[]byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	for _, part := range parts {
		mac.Write(part)
	}
	return hex.EncodeToString(mac.Sum(nil))
}

func newBody(id string) []byte {
	return fmt.Appendf(nil, `{"id":%q,"type":"batch.done","created_at":"2026-07-01T09:00:00Z","data":{"batch_id":"b-1","output_url":null,"total_tokens":7}}`, id)
}

// A load is senders that post events without a pause, each with an id of its own.
type load struct {
	mu      sync.Mutex
	answers map[string]int // status by event id; 0 for no answer
	stop    chan struct{}
	senders sync.WaitGroup
}

// startLoad begins a load, signed with the secret. A sender that gets no answer gives up.
func startLoad(p *process, name, secret string, senders int) *load {
	l := &load{answers: map[string]int{}, stop: make(chan struct{})}
	for s := range senders {
		l.senders.Go(func() {
			for i := 0; !l.stopped(); i++ {
				id := fmt.Sprintf("%s-%d-%d", name, s, i)
				a, err := p.send(secret, newBody(id))
				l.mu.Lock()
				l.answers[id] = a.Status
				l.mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	return l
}

func (l *load) stopped() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

// waitFor blocks until n more answers are there.
func (l *load) waitFor(t testing.TB, n int) {
	t.Helper()
	count := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.answers)
	}
	goal := count() + n
	eventually(t, "answers under load", func() bool { return count() >= goal })
}

// end blocks until each request has its answer, and returns the statuses by event id.
func (l *load) end() map[string]int {
	close(l.stop)
	l.senders.Wait()
	return l.answers
}

// A result is what a verb did.
type result struct {
	stdout, stderr string
	code           int
}

// verb runs the command line beside the relay, and finds it by its data directory.
func (p *process) verb(t testing.TB, args ...string) result {
	t.Helper()
	var r result
	cmd, stdout, stderr := p.newVerb(t, args...)
	if err := cmd.Run(); err != nil {
		ended, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			t.Fatal(err)
		}
		r.code = ended.ExitCode()
	}
	r.stdout, r.stderr = stdout.String(), stderr.String()
	return r
}

func (p *process) newVerb(t testing.TB, args ...string) (cmd *exec.Cmd, stdout, stderr *output) {
	t.Helper()
	cmd = exec.Command(p.cmd.Path, append(args, "--data-dir="+p.dir)...)
	stdout, stderr = &output{}, &output{}
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = p.cmd.Dir, p.cmd.Env, stdout, stderr
	return cmd, stdout, stderr
}

// An output keeps what a process writes.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// lines are the log lines; what is no JSON is left out.
func (o *output) lines() []map[string]any {
	var lines []map[string]any
	for text := range strings.Lines(o.String()) {
		var line map[string]any
		if json.Unmarshal([]byte(text), &line) == nil {
			lines = append(lines, line)
		}
	}
	return lines
}

// patience is how long the tests wait for what must happen. Nothing is measured by it.
const patience = 30 * time.Second

// eventually blocks until the condition holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	end := time.NewTimer(patience)
	defer end.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-end.C:
			t.Fatalf("did not happen: %s", what)
		}
	}
}

// writeFile puts a file in place in one step, as a secret store does.
func writeFile(t testing.TB, path, text string) string {
	t.Helper()
	next := path + ".next"
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// runNATS runs a NATS server with JetStream until the test ends, in a directory of its own
// and on a free port unless the options say otherwise.
func runNATS(t testing.TB, o server.Options) *server.Server {
	t.Helper()
	o.Host, o.JetStream, o.NoSigs, o.NoLog = "127.0.0.1", true, true, true
	if o.Port == 0 {
		o.Port = server.RANDOM_PORT
	}
	if o.StoreDir == "" {
		o.StoreDir = t.TempDir()
	}
	ns, err := server.NewServer(&o)
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() { endNATS(ns) })
	if !ns.ReadyForConnections(patience) {
		t.Fatal("NATS did not start")
	}
	return ns
}

// endNATS ends the server once it has done what it was asked for: a stream that it makes while it is
// shut down is left behind.
func endNATS(ns *server.Server) {
	for range 1000 {
		if info, err := ns.Jsz(nil); err != nil || info.API.Inflight == 0 {
			break
		}
		<-time.After(5 * time.Millisecond)
	}
	ns.Shutdown()
	ns.WaitForShutdown()
}

// lastPort lies below the ports that systems give out for port 0.
var lastPort atomic.Int32

// fixedPort is a port that nobody listens on, and nobody is going to be given.
func fixedPort(t testing.TB) int {
	t.Helper()
	lastPort.CompareAndSwap(0, int32(12000+os.Getpid()%16000))
	for range 1000 {
		port := int(lastPort.Add(1))
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			closeQuietly(l)
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// connect opens JetStream for the test to look at.
func connect(t testing.TB, url string) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// messages reads a stream from its beginning to its end.
func messages(t testing.TB, url, name string) []*jetstream.RawStreamMsg {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stream, err := connect(t, url).Stream(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	var all []*jetstream.RawStreamMsg
	for seq := uint64(1); seq <= stream.CachedInfo().State.LastSeq; seq++ {
		msg, err := stream.GetMsg(ctx, seq)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, msg)
	}
	return all
}

// ids counts how often each event is in the stream.
func ids(t testing.TB, url, stream string) map[string]int {
	t.Helper()
	count := map[string]int{}
	for _, msg := range messages(t, url, stream) {
		count[msg.Header.Get("ce-id")]++
	}
	return count
}
