package together

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"together-relay/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestUnusable(t *testing.T) {
	t.Parallel()
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for _, c := range []struct{ name, body, reason string }{
		{"empty", ``, relay.ReasonJSON},
		{"white space", " \n", relay.ReasonJSON},
		{"no JSON", `hello`, relay.ReasonJSON},
		{"cut off", `{"id":"a","type":"b.c","data":{}`, relay.ReasonJSON},
		{"goes on", `{"id":"a","type":"b.c","data":{}}{}`, relay.ReasonJSON},
		{"array", `[]`, relay.ReasonJSON},
		{"string", `"x"`, relay.ReasonJSON},
		{"null", `null`, relay.ReasonJSON},
		{"byte order mark", "\ufeff" + `{"id":"a","type":"b.c","data":{}}`, relay.ReasonJSON},
		{"not UTF-8", "{\"id\":\"a\xff\",\"type\":\"b.c\",\"data\":{}}", relay.ReasonJSON},
		{"overlong UTF-8", "{\"id\":\"a\xc0\x80\",\"type\":\"b.c\",\"data\":{}}", relay.ReasonJSON},
		{"NUL", "{\"id\":\"a\x00\",\"type\":\"b.c\",\"data\":{}}", relay.ReasonJSON},
		{"raw line break", "{\"id\":\"a\n\",\"type\":\"b.c\",\"data\":{}}", relay.ReasonJSON},
		{"too deep", `{"id":"a","type":"b.c","data":{"x":` + deep(20000) + `}}`, relay.ReasonJSON},
		{"no id", `{"type":"b.c","data":{}}`, relay.ReasonID},
		{"id in another case", `{"ID":"a","type":"b.c","data":{}}`, relay.ReasonID},
		{"empty id", `{"id":"","type":"b.c","data":{}}`, relay.ReasonID},
		{"null id", `{"id":null,"type":"b.c","data":{}}`, relay.ReasonID},
		{"number id", `{"id":1,"type":"b.c","data":{}}`, relay.ReasonID},
		{"long id", `{"id":"` + strings.Repeat("x", 1025) + `","type":"b.c","data":{}}`, relay.ReasonID},
		{"very long id", `{"id":"` + strings.Repeat("x", 10000) + `","type":"b.c","data":{}}`, relay.ReasonID},
		{"id with an unpaired surrogate", `{"id":"a\ud800","type":"b.c","data":{}}`, relay.ReasonID},
		{"no type", `{"id":"a","data":{}}`, relay.ReasonType},
		{"empty type", `{"id":"a","type":"","data":{}}`, relay.ReasonType},
		{"type is an object", `{"id":"a","type":{},"data":{}}`, relay.ReasonType},
		{"dots", `{"id":"a","type":".","data":{}}`, relay.ReasonType},
		{"empty token", `{"id":"a","type":"a..b","data":{}}`, relay.ReasonType},
		{"leading dot", `{"id":"a","type":".a","data":{}}`, relay.ReasonType},
		{"trailing dot", `{"id":"a","type":"a.","data":{}}`, relay.ReasonType},
		{"nine tokens", `{"id":"a","type":"a.a.a.a.a.a.a.a.a","data":{}}`, relay.ReasonType},
		{"200 tokens", `{"id":"a","type":"a` + strings.Repeat(".a", 199) + `","data":{}}`, relay.ReasonType},
		{"long type", `{"id":"a","type":"` + strings.Repeat("a", 201) + `","data":{}}`, relay.ReasonType},
		{"no data", `{"id":"a","type":"b.c"}`, relay.ReasonData},
		{"null data", `{"id":"a","type":"b.c","data":null}`, relay.ReasonData},
		{"array data", `{"id":"a","type":"b.c","data":[{}]}`, relay.ReasonData},
		{"string data", `{"id":"a","type":"b.c","data":"{}"}`, relay.ReasonData},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := readEnvelope([]byte(c.body))
			bad, ok := errors.AsType[*relay.Unusable](err)
			if !ok || bad.Reason != c.reason {
				t.Fatalf("error = %v, want Unusable for %s", err, c.reason)
			}
			if strings.Contains(bad.Detail, "hello") || len(bad.Detail) > 200 {
				t.Errorf("detail repeats the body: %s", bad.Detail)
			}
		})
	}
}

func TestEnvelope(t *testing.T) {
	t.Parallel()
	type want struct{ ID, Type, Resource, Data, Members, Created string }
	for _, c := range []struct {
		name, body string
		want       want
	}{
		{"plain", `{"id":"evt_1","type":"batch.done","data":{"batch_id":"b1"}}`,
			want{"evt_1", "batch.done", "b1", `{"batch_id":"b1"}`, "", ""}},
		{"data is untouched", "\t{ \"data\" : { \"n\":1.0E+2,\"n\" : 1e400,\"s\":\"\\u00e9\\ud800\\/é\" }\r\n,\"type\":\"x\",\"id\":\"a\"} ",
			want{"a", "x", "_", "{ \"n\":1.0E+2,\"n\" : 1e400,\"s\":\"\\u00e9\\ud800\\/é\" }", "", ""}},
		{"the last of two counts", `{"id":"a","id":"b","type":"x","type":"y","data":1,"data":{"id":"r","id":"s"}}`,
			want{"b", "y", "s", `{"id":"r","id":"s"}`, "", ""}},
		{"escapes in names", `{"\u0069d":"a","type":"x","data":{"\u0069d":"r"}}`, want{"a", "x", "r", `{"\u0069d":"r"}`, "", ""}},
		{"line breaks and NUL in the id", `{"id":"a\r\nb\u0000","type":"x","data":{}}`, want{"a\r\nb\x00", "x", "_", `{}`, "", ""}},
		{"spaces in the id", `{"id":"  ","type":"x","data":{}}`, want{"  ", "x", "_", `{}`, "", ""}},
		{"longest id", `{"id":"` + strings.Repeat("x", 1024) + `","type":"x","data":{}}`, want{strings.Repeat("x", 1024), "x", "_", `{}`, "", ""}},
		{"wild type", `{"id":"a","type":"fine_tune.>","data":{"fine_tune_id":"ft"}}`, want{"a", "fine_tune.>", "ft", `{"fine_tune_id":"ft"}`, "", ""}},
		{"system type", `{"id":"a","type":"$JS.API","data":{}}`, want{"a", "$JS.API", "_", `{}`, "", ""}},
		{"eight tokens", `{"id":"a","type":"a.a.a.a.a.a.a.a","data":{}}`, want{"a", "a.a.a.a.a.a.a.a", "_", `{}`, "", ""}},
		{"resource by family", `{"id":"a","type":"video.done","data":{"id":"x","video_id":"v"}}`, want{"a", "video.done", "v", `{"id":"x","video_id":"v"}`, "", ""}},
		{"family is no string", `{"id":"a","type":"video.done","data":{"id":"x","video_id":7}}`, want{"a", "video.done", "x", `{"id":"x","video_id":7}`, "", ""}},
		{"family is empty", `{"id":"a","type":"video.done","data":{"id":"x","video_id":""}}`, want{"a", "video.done", "x", `{"id":"x","video_id":""}`, "", ""}},
		{"only nested ids", `{"id":"a","type":"video.done","data":{"x":{"id":"y"}}}`, want{"a", "video.done", "_", `{"x":{"id":"y"}}`, "", ""}},
		{"created_at", `{"id":"a","type":"x","data":{},"created_at":"2026-07-01T11:00:00.5+02:00"}`, want{"a", "x", "_", `{}`, "", "2026-07-01T09:00:00.5Z"}},
		{"created in seconds", `{"id":"a","type":"x","data":{},"created":1782896400}`, want{"a", "x", "_", `{}`, "", "2026-07-01T09:00:00Z"}},
		{"created with a fraction", `{"id":"a","type":"x","data":{},"created":1782896400.25}`, want{"a", "x", "_", `{}`, "", "2026-07-01T09:00:00.25Z"}},
		{"created_at goes first", `{"id":"a","type":"x","data":{},"created":1,"created_at":"2026-07-01T09:00:00Z"}`, want{"a", "x", "_", `{}`, `{"created":1}`, "2026-07-01T09:00:00Z"}},
		{"created is no time", `{"id":"a","type":"x","data":{},"created":"yesterday"}`, want{"a", "x", "_", `{}`, `{"created":"yesterday"}`, ""}},
		{"created is beyond time", `{"id":"a","type":"x","data":{},"created":1e300}`, want{"a", "x", "_", `{}`, `{"created":1e300}`, ""}},
		{"created beyond the years", `{"id":"a","type":"x","data":{},"created_at":"9999-12-31T23:59:59-23:59"}`, want{"a", "x", "_", `{}`, `{"created_at":"9999-12-31T23:59:59-23:59"}`, ""}},
		{"created before the years", `{"id":"a","type":"x","data":{},"created_at":"0000-01-01T00:00:00+23:59"}`, want{"a", "x", "_", `{}`, `{"created_at":"0000-01-01T00:00:00+23:59"}`, ""}},
		{"created in lower case", `{"id":"a","type":"x","data":{},"created_at":"2026-07-01t09:00:00z"}`, want{"a", "x", "_", `{}`, "", "2026-07-01T09:00:00Z"}},
		{"created with a comma", `{"id":"a","type":"x","data":{},"created_at":"2026-07-01T09:00:00,5Z"}`, want{"a", "x", "_", `{}`, `{"created_at":"2026-07-01T09:00:00,5Z"}`, ""}},
		{"created_at is null", `{"id":"a","type":"x","data":{},"created_at":null,"created":1782896400}`, want{"a", "x", "_", `{}`, `{"created_at":null}`, "2026-07-01T09:00:00Z"}},
		{"further members", `{"id":"a", "livemode": false, "type":"x","data":{},"é":[ 1.0, "😀" ]}`,
			want{"a", "x", "_", `{}`, `{"livemode":false,"\u00e9":[1.0,"\ud83d\ude00"]}`, ""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			env, err := readEnvelope([]byte(c.body))
			if err != nil {
				t.Fatal(err)
			}
			got := want{env.id, env.typ, env.resource, string(env.data), string(env.members), ""}
			if !env.created.IsZero() {
				got.Created = env.created.Format(time.RFC3339Nano)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("envelope (-want +got):\n%s", diff)
			}
			if whole := string(env.head) + string(env.data) + string(env.tail); whole != c.body {
				t.Errorf("head, data and tail make %q, want the body", whole)
			}
		})
	}
}

// Whatever is in an envelope, its data comes out byte for byte and the body can be put
// together again.
func TestEnvelopeKeepsBytes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.StringN(1, 100, MaxID).Draw(t, "id")
		space := rapid.StringMatching(`[ \t\r\n]{0,3}`).Draw(t, "space")
		value, err := json.MarshalIndent(rapid.MapOf(rapid.String(), rapid.String()).Draw(t, "data"), space, space)
		if err != nil {
			t.Fatal(err)
		}
		data := string(value)
		quoted, err := json.Marshal(id)
		if err != nil {
			t.Fatal(err)
		}
		body := space + `{"type":"x.y",` + space + `"data":` + space + data + space + `,"id":` + string(quoted) + `}` + space
		ev, err := Read([]byte(body))
		if err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		if ev.CloudEvent.ID() != id {
			t.Errorf("id = %q, want %q", ev.CloudEvent.ID(), id)
		}
		if string(ev.CloudEvent.Data()) != data {
			t.Errorf("data = %s, want %s", ev.CloudEvent.Data(), data)
		}
		if again, err := Body(ev); err != nil || string(again) != body {
			t.Errorf("Body = %q, %v; want %q", again, err, body)
		}
	})
}

func TestBodyWithoutFrame(t *testing.T) {
	t.Parallel()
	body := `{"id":"a\"b","type":"x.y","note":"` + strings.Repeat("n", maxFrame) + `","data":{"x":1},"created":1782896400}`
	ev, err := Read([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	if ev.Head != nil || ev.Tail != nil {
		t.Fatal("a long frame was kept")
	}
	made, err := Body(ev)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Read(made)
	if err != nil {
		t.Fatalf("%s: %v", made, err)
	}
	if again.CloudEvent.ID() != `a"b` || again.Type != "x.y" || string(again.Members) != string(ev.Members) ||
		string(again.CloudEvent.Data()) != `{"x":1}` || !again.CloudEvent.Time().Equal(ev.CloudEvent.Time()) {
		t.Errorf("the body that was put together says something else: %s", made)
	}
}

func FuzzEnvelope(f *testing.F) {
	for _, seed := range []string{
		`{"id":"evt_1","type":"batch.done","data":{"batch_id":"b1"},"created_at":"2026-07-01T09:00:00Z","x":[1]}`,
		`{"id":"a","type":"a..b","data":{}}`, "{\"id\":\"\xff\"}", `{"data":{"id":"\ud800"},"id":"😀","type":"é.>"}`, `[[[[`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		ev, err := Read(body)
		if err != nil {
			if _, ok := errors.AsType[*relay.Unusable](err); !ok {
				t.Fatalf("error %v is not Unusable", err)
			}
			return
		}
		if !json.Valid(body) {
			t.Fatalf("took what is not JSON: %q", body)
		}
		if id := ev.CloudEvent.ID(); len(id) < 1 || len(id) > MaxID || CheckType(ev.Type) != nil {
			t.Fatalf("took id %q, type %q", id, ev.Type)
		}
		if ev.Members != nil && (!json.Valid(ev.Members) || strings.ContainsFunc(string(ev.Members), func(r rune) bool { return r < ' ' || r > '~' })) {
			t.Fatalf("members are no line of ASCII JSON: %q", ev.Members)
		}
		if again, err := Body(ev); len(ev.Head) > 0 && (err != nil || string(again) != string(body)) {
			t.Fatalf("Body = %q, %v; want %q", again, err, body)
		}
	})
}
