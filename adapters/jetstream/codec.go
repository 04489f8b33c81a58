package jetstream

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
	"github.com/nats-io/nats.go"

	"together-relay/relay"
)

// Headers of ours beside the CloudEvents attributes. They carry what is needed to send
// the delivery again as it was.
const (
	envelopeHeader = "Relay-Envelope" // compact JSON of the envelope's further members
	headHeader     = "Relay-Head"     // the signed body before the data
	tailHeader     = "Relay-Tail"     // the signed body after the data
	attribute      = "ce-"
)

// A message is one that is used again and again, since its headers are most of what an event
// takes to be stored. Most events have the same headers, so their names stay where they are.
type message struct {
	nats.Msg
	names  []string // of the headers that are written
	ends   []int    // of their values in text
	text   []byte   // the values, one after the other
	filled []string // the names in Header
	values []string // what Header's entries lie in, in the same order
}

var messages = sync.Pool{New: func() any { return &message{Msg: nats.Msg{Header: make(nats.Header, 24)}} }}

// free gives the message back. Nobody may use it any more.
func (m *message) free() {
	m.reset()
	messages.Put(m)
}

func (m *message) reset() {
	if len(m.Header) != len(m.filled) { // something was added or taken out
		m.filled = m.filled[:0]
	}
	clear(m.values)
	m.Subject, m.Reply, m.Data = "", "", nil
	m.names, m.ends, m.text = m.names[:0], m.ends[:0], m.text[:0]
}

// end ends the value that was written to text.
func (m *message) end(name string) {
	m.names = append(m.names, name)
	m.ends = append(m.ends, len(m.text))
}

func (m *message) set(name, value string) {
	m.text = appendValue(m.text, value)
	m.end(name)
}

func (m *message) setTime(name string, t time.Time) {
	m.text = t.UTC().AppendFormat(m.text, time.RFC3339Nano)
	m.end(name)
}

// fill makes headers of what was written. Their values share one string.
func (m *message) fill() {
	if !slices.Equal(m.filled, m.names) {
		m.filled = append(m.filled[:0], m.names...)
		m.values = make([]string, len(m.names))
		clear(m.Header)
		for i, name := range m.names {
			m.Header[name] = m.values[i : i+1 : i+1]
		}
	}
	text, start := string(m.text), 0
	for i, end := range m.ends {
		m.values[i] = text[start:end]
		start = end
	}
}

// encode writes an event in the binary mode of the CloudEvents NATS binding: the data is
// the payload as it is, each attribute a header in lower case, percent-encoded.
func (m *message) encode(subject string, ev relay.Event) error {
	ctx, ok := ev.CloudEvent.Context.(*event.EventContextV1)
	if !ok {
		ctx = ev.CloudEvent.Context.AsV1() // it makes a copy
	}
	m.set("ce-specversion", event.CloudEventsVersionV1)
	m.set("ce-id", ctx.ID)
	m.set("ce-source", ctx.Source.String())
	m.set("ce-type", ctx.Type)
	if ctx.Subject != nil {
		m.set("ce-subject", *ctx.Subject)
	}
	if ctx.Time != nil {
		m.setTime("ce-time", ctx.Time.Time)
	}
	if ctx.DataContentType != nil {
		m.set("ce-datacontenttype", *ctx.DataContentType)
	}
	if ctx.DataSchema != nil {
		m.set("ce-dataschema", ctx.DataSchema.String())
	}
	way, placed := ctx.Extensions["ingress"].(string)
	if placed { // it has a place of its own, since a map has no order
		m.set("ce-ingress", way)
	}
	for name, value := range ctx.Extensions {
		if placed && name == "ingress" {
			continue
		}
		if when, ok := value.(types.Timestamp); ok {
			m.setTime(attribute+name, when.Time)
			continue
		}
		text, err := types.Format(value)
		if err != nil {
			return fmt.Errorf("encode attribute %s: %w", name, err)
		}
		m.set(attribute+name, text)
	}
	if ev.Members != nil { // it is ASCII, and stays as it is
		m.text = append(m.text, ev.Members...)
		m.end(envelopeHeader)
	}
	if len(ev.Head) > 0 {
		m.text = appendValue(m.text, ev.Head)
		m.end(headHeader)
		m.text = appendValue(m.text, ev.Tail)
		m.end(tailHeader)
	}
	if ev.Fact != "" {
		m.set(factHeader, ev.Fact)
	}
	m.set(nats.MsgIdHdr, messageID(ev))
	m.fill()
	m.Subject, m.Data = subject, ev.CloudEvent.DataEncoded
	return nil
}

// messageID is under which name the stream knows an event.
func messageID(ev relay.Event) string { return ev.Source + ":" + ev.CloudEvent.ID() }

// decode reads an event back, written by us or by another sender of either mode.
func decode(h nats.Header, data []byte) (relay.Event, error) {
	var ev relay.Event
	if mode := h.Get("Content-Type"); strings.HasPrefix(strings.ToLower(mode), "application/cloudevents") {
		err := json.Unmarshal(data, &ev.CloudEvent)
		return ev, err
	}
	ctx := &event.EventContextV1{}
	for _, name := range slices.Sorted(maps.Keys(h)) {
		attr, ok := strings.CutPrefix(strings.ToLower(name), attribute)
		if !ok || len(h[name]) == 0 {
			continue
		}
		value, err := unescapeValue(h[name][0])
		if err != nil {
			return ev, fmt.Errorf("decode header %s: %w", name, err)
		}
		if err := setAttribute(ctx, attr, value); err != nil {
			return ev, fmt.Errorf("decode header %s: %w", name, err)
		}
	}
	if ctx.ID == "" || ctx.Type == "" {
		return ev, fmt.Errorf("decode message: no CloudEvent, ce-id or ce-type is missing")
	}
	ev.CloudEvent = event.Event{Context: ctx, DataEncoded: data}
	if ctx.Subject != nil {
		ev.Resource = *ctx.Subject
	}
	if id, err := unescapeValue(h.Get(nats.MsgIdHdr)); err == nil {
		ev.Source, _ = strings.CutSuffix(id, ":"+ctx.ID)
	}
	fact, err := unescapeValue(h.Get(factHeader))
	if err != nil {
		return ev, fmt.Errorf("decode header %s: %w", factHeader, err)
	}
	ev.Fact = fact
	if members := h.Get(envelopeHeader); members != "" {
		ev.Members = []byte(members)
	}
	head, err := unescapeValue(h.Get(headHeader))
	if err != nil {
		return ev, fmt.Errorf("decode header %s: %w", headHeader, err)
	}
	tail, err := unescapeValue(h.Get(tailHeader))
	if err != nil {
		return ev, fmt.Errorf("decode header %s: %w", tailHeader, err)
	}
	ev.Head, ev.Tail = []byte(head), []byte(tail)
	return ev, nil
}

func setAttribute(ctx *event.EventContextV1, name, value string) error {
	switch name {
	case "specversion":
		if value != event.CloudEventsVersionV1 {
			return fmt.Errorf("specversion %q is not %s", value, event.CloudEventsVersionV1)
		}
	case "id":
		ctx.ID = value
	case "source":
		uri := types.ParseURIRef(value)
		if uri == nil {
			return fmt.Errorf("no URI reference")
		}
		ctx.Source = *uri
	case "type":
		ctx.Type = value
	case "subject":
		ctx.Subject = &value
	case "datacontenttype":
		ctx.DataContentType = &value
	case "dataschema":
		if ctx.DataSchema = types.ParseURI(value); ctx.DataSchema == nil {
			return fmt.Errorf("no URI")
		}
	case "time":
		when, err := types.ParseTimestamp(value)
		if err != nil {
			return err
		}
		ctx.Time = when
	default:
		if ctx.Extensions == nil {
			ctx.Extensions = map[string]any{}
		}
		ctx.Extensions[name] = value
	}
	return nil
}

// unescapeValue undoes double quotes with backslashes, then one round of percent-encoding.
// Hex of either case and needless encoding are taken; what is no UTF-8 then is an error.
func unescapeValue(s string) (string, error) {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = unquote(s[1 : len(s)-1])
	}
	if strings.IndexByte(s, '%') >= 0 {
		b := make([]byte, 0, len(s))
		for i := 0; i < len(s); i++ {
			if s[i] == '%' {
				if i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2]) {
					return "", fmt.Errorf("broken percent-encoding at byte %d", i)
				}
				b = append(b, unhex(s[i+1])<<4|unhex(s[i+2]))
				i += 2
				continue
			}
			b = append(b, s[i])
		}
		s = string(b)
	}
	if !utf8.ValidString(s) {
		return "", fmt.Errorf("not UTF-8")
	}
	return s, nil
}

func unquote(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	default:
		return c - 'a' + 10
	}
}
