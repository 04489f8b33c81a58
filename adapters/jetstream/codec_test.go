package jetstream

import (
	"context"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	cenats "github.com/cloudevents/sdk-go/protocol/nats_jetstream/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"pgregory.net/rapid"

	"together-relay/relay"
	"together-relay/relay/relaytest"
)

// A vector is an event and the message that it must be, in testdata/vectors.json. They are
// written by hand from the specification, not by the codec.
type vector struct {
	Name    string            `json:"name"`
	Source  string            `json:"source"`
	Type    string            `json:"type"`
	Event   map[string]string `json:"event"`
	Members string            `json:"members"`
	Head    string            `json:"head"`
	Tail    string            `json:"tail"`
	Data    string            `json:"data"`
	Subject string            `json:"nats_subject"`
	Headers map[string]string `json:"headers"`
}

func vectors(t testing.TB) []vector {
	t.Helper()
	text, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []vector
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func (v vector) event(t testing.TB) relay.Event {
	t.Helper()
	ctx := &event.EventContextV1{}
	for name, value := range v.Event {
		if err := setAttribute(ctx, name, value); err != nil {
			t.Fatal(err)
		}
	}
	ev := relay.Event{Source: v.Source, Type: v.Type, Resource: v.Event["subject"], CloudEvent: event.Event{Context: ctx, DataEncoded: []byte(v.Data)},
		Head: []byte(v.Head), Tail: []byte(v.Tail)}
	if v.Members != "" {
		ev.Members = []byte(v.Members)
	}
	return ev
}

func TestVectors(t *testing.T) {
	t.Parallel()
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			ev := v.event(t)
			subject := Subject("together", ev.Type, ev.Resource)
			if subject != v.Subject {
				t.Errorf("subject = %s, want %s", subject, v.Subject)
			}
			msg, err := encode(subject, ev)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for name, values := range msg.Header {
				got[name] = strings.Join(values, "|")
			}
			if diff := cmp.Diff(v.Headers, got); diff != "" {
				t.Errorf("headers (-want +got):\n%s", diff)
			}
			if string(msg.Data) != v.Data {
				t.Errorf("payload = %q, want %q", msg.Data, v.Data)
			}
			back, err := decode(msg.Header, msg.Data)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(attributes(t, ev.CloudEvent), attributes(t, back.CloudEvent)); diff != "" {
				t.Errorf("decoded (-want +got):\n%s", diff)
			}
			if back.Source != v.Source || string(back.Members) != v.Members || string(back.Head) != v.Head || string(back.Tail) != v.Tail {
				t.Errorf("decoded = %+v", back)
			}
		})
	}
}

// The SDK's reader takes our messages. It does not undo the percent-encoding, so it is
// held to the headers as they are.
func TestVectorsAreReadByTheSDK(t *testing.T) {
	t.Parallel()
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			msg, err := encode("x", v.event(t))
			if err != nil {
				t.Fatal(err)
			}
			read, err := binding.ToEvent(context.Background(), cenats.NewMessage(msg))
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]string{}
			for name, value := range v.Headers {
				if attr, ok := strings.CutPrefix(name, "ce-"); ok {
					want[attr] = value
				}
			}
			if diff := cmp.Diff(want, attributes(t, *read)); diff != "" {
				t.Errorf("as the SDK reads it (-want +got):\n%s", diff)
			}
			if string(read.Data()) != v.Data {
				t.Errorf("data = %q, want %q", read.Data(), v.Data)
			}
			if err := read.Validate(); err != nil {
				t.Error(err)
			}
		})
	}
}

func attributes(t testing.TB, e event.Event) map[string]string {
	t.Helper()
	ctx := e.Context.AsV1()
	m := map[string]string{"specversion": e.SpecVersion(), "id": ctx.ID, "source": ctx.Source.String(), "type": ctx.Type}
	if ctx.Subject != nil {
		m["subject"] = *ctx.Subject
	}
	if ctx.Time != nil {
		m["time"] = ctx.Time.String()
	}
	if ctx.DataContentType != nil {
		m["datacontenttype"] = *ctx.DataContentType
	}
	if ctx.DataSchema != nil {
		m["dataschema"] = ctx.DataSchema.String()
	}
	for name, value := range ctx.Extensions {
		text, err := types.Format(value)
		if err != nil {
			t.Fatal(err)
		}
		m[name] = text
	}
	return m
}

// Any attribute survives the way through a header, and none can end its line.
func TestValues(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "value")
		escaped := escapeValue(s)
		for i := range len(escaped) {
			if c := escaped[i]; c <= ' ' || c > '~' || c == '"' {
				t.Fatalf("%q holds %q", escaped, c)
			}
		}
		if back, err := unescapeValue(escaped); err != nil || back != s {
			t.Fatalf("%q came back as %q, %v", s, back, err)
		}
	})
}

func TestUnescapeValue(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in, out string
		ok      bool
	}{
		{"", "", true},
		{"plain", "plain", true},
		{"a%20b", "a b", true},
		{"%c3%a9%C3%A9", "éé", true},
		{"%41", "A", true},
		{"%2541", "%41", true},
		{`"a b"`, "a b", true},
		{`"a \"b\" \\"`, `a "b" \`, true},
		{`"%22"`, `"`, true},
		{`"`, `"`, true},
		{"%", "", false},
		{"%2", "", false},
		{"%zz", "", false},
		{"%c3", "", false},
		{"%C0%80", "", false},
		{"%ED%A0%80", "", false},
		{"\xff", "", false},
	} {
		if out, err := unescapeValue(c.in); out != c.out || (err == nil) != c.ok {
			t.Errorf("unescapeValue(%q) = %q, %v; want %q, ok %v", c.in, out, err, c.out, c.ok)
		}
	}
}

func TestDecodeOthers(t *testing.T) {
	t.Parallel()
	structured := `{"specversion":"1.0","id":"1","source":"/x","type":"y","datacontenttype":"application/json","data":{"a":1}}`
	ev, err := decode(nats.Header{"Content-Type": {"Application/CloudEvents+json; charset=utf-8"}}, []byte(structured))
	if err != nil || ev.CloudEvent.ID() != "1" || string(ev.CloudEvent.Data()) != `{"a":1}` {
		t.Errorf("structured mode: %+v, %v", ev, err)
	}
	ev, err = decode(nats.Header{"CE-Id": {"1"}, "Ce-Type": {"t"}, "ce-source": {"/s"}, "CE-SpecVersion": {"1.0"}}, []byte(`x`))
	if err != nil || ev.CloudEvent.ID() != "1" || ev.CloudEvent.Type() != "t" {
		t.Errorf("headers of another case: %+v, %v", ev, err)
	}
	for name, h := range map[string]nats.Header{
		"no headers":        nil,
		"no id":             {"ce-type": {"t"}},
		"another version":   {"ce-id": {"1"}, "ce-type": {"t"}, "ce-specversion": {"0.3"}},
		"broken encoding":   {"ce-id": {"%"}, "ce-type": {"t"}},
		"time is no time":   {"ce-id": {"1"}, "ce-type": {"t"}, "ce-time": {"now"}},
		"broken structured": {"Content-Type": {"application/cloudevents+json"}},
	} {
		if ev, err := decode(h, nil); err == nil {
			t.Errorf("%s: decoded as %+v", name, ev)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("1", "/s", "t", "a%20b", "2026-07-01T09:00:00Z", `{"x":1}`, `{`, `}`)
	f.Add("%41\"", "::", "", "%zz", "now", ``, "\xff", `"\"`)
	f.Fuzz(func(t *testing.T, id, source, typ, subject, when, members, head, tail string) {
		h := nats.Header{"ce-specversion": {"1.0"}, "ce-id": {id}, "ce-source": {source}, "ce-type": {typ}, "ce-subject": {subject},
			"ce-time": {when}, envelopeHeader: {members}, headHeader: {head}, tailHeader: {tail}}
		ev, err := decode(h, []byte(`{}`))
		if err != nil {
			return
		}
		for _, s := range []string{ev.CloudEvent.ID(), ev.CloudEvent.Type(), ev.Resource, string(ev.Head), string(ev.Tail)} {
			if !utf8.ValidString(s) {
				t.Fatalf("%q is not UTF-8", s)
			}
		}
		if _, err := encode("x", ev); err != nil {
			t.Fatalf("what was decoded cannot be encoded: %v", err)
		}
	})
}

func FuzzDecodeLetter(f *testing.F) {
	f.Add("together", "json", "detail", "2026-07-01T09:00:00Z", "v")
	f.Fuzz(func(t *testing.T, source, reason, detail, received, value string) {
		letter, err := decodeLetter(nats.Header{sourceHeader: {source}, reasonHeader: {reason}, detailHeader: {detail}, receivedHeader: {received}, "X-A": {value}}, []byte("x"))
		if err != nil {
			return
		}
		again, err := decodeLetter(encodeLetter(letter).Header, []byte("x"))
		if err != nil || again.Source != letter.Source || again.Reason != letter.Reason || again.Header["X-A"] != letter.Header["X-A"] ||
			!again.Arrived.Equal(letter.Arrived) {
			t.Fatalf("%+v came back as %+v, %v", letter, again, err)
		}
	})
}

// A message that was used, and whose headers were changed meanwhile, is as good as a new one.
func TestMessageIsUsedAgain(t *testing.T) {
	t.Parallel()
	var all []relay.Event
	for _, v := range vectors(t) {
		all = append(all, v.event(t))
	}
	// As many headers as another one has, under other names.
	fact, members := relaytest.NewEvent("together", "evt_1", `{}`), relaytest.NewEvent("together", "evt_2", `{}`)
	fact.Fact, members.Members = "step=1", []byte(`{"x":1}`)
	all = append(all, fact, members)
	used := messages.New().(*message)
	for i := range all {
		for j := range all {
			for _, change := range []func(nats.Header){
				func(nats.Header) {},
				func(h nats.Header) { h[nats.ExpectedLastSubjSeqHdr] = []string{"7"} },
				func(h nats.Header) { delete(h, headHeader); delete(h, tailHeader) },
			} {
				if err := used.encode("x", all[i]); err != nil {
					t.Fatal(err)
				}
				change(used.Header)
				used.reset()
				if err := used.encode("y", all[j]); err != nil {
					t.Fatal(err)
				}
				fresh, err := encode("y", all[j])
				if diff := cmp.Diff(fresh.Header, used.Header); diff != "" || err != nil {
					t.Fatalf("%s after %s (-new +used): %s, %v", all[j].CloudEvent.ID(), all[i].CloudEvent.ID(), diff, err)
				}
				used.reset()
			}
		}
	}
}

// Times are stored in UTC, wherever the relay runs.
func TestTimesAreInUTC(t *testing.T) {
	t.Parallel()
	east := types.Timestamp{Time: time.Date(2026, 7, 1, 9, 0, 0, 0, time.FixedZone("", 2*60*60))}
	ev := relaytest.NewEvent("together", "evt_1", `{}`)
	ctx := ev.CloudEvent.Context.(*event.EventContextV1)
	ctx.Time, ctx.Extensions["recordedtime"] = &east, east
	msg, err := encode("x", ev)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ce-time", "ce-recordedtime"} {
		if got := msg.Header[name]; !slices.Equal(got, []string{"2026-07-01T07:00:00Z"}) {
			t.Errorf("%s = %q", name, got)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	v := vectors(b)[0]
	ev := v.event(b)
	b.ReportAllocs()
	for b.Loop() {
		m := messages.Get().(*message)
		if err := m.encode(Subject("together", ev.Type, ev.Resource), ev); err != nil {
			b.Fatal(err)
		}
		m.free()
	}
}
