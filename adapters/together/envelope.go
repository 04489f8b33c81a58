package together

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"together-relay/relay"
)

// The limits of what an envelope may say. Beyond them it is a dead letter.
const (
	MaxID         = 1024 // bytes
	MaxType       = 200  // bytes
	MaxTypeTokens = 8
)

// maxFrame is how many bytes around the data are kept so that the signed body can be
// put together again. A longer frame is let go; its members are still kept.
const maxFrame = 4 << 10

// An envelope is a delivery's body, read but not decoded: data, head and tail lie in it.
type envelope struct {
	id, typ    string
	resource   string
	created    time.Time // zero if the sender gave none
	data       []byte
	members    []byte // nil if there are none
	head, tail []byte
}

// readEnvelope walks the body once. Its error is a *relay.Unusable; what was read up
// to there is returned beside it. Of members that appear twice the last one counts.
func readEnvelope(body []byte) (envelope, error) {
	var env envelope
	members, err := topLevel(body)
	if err != nil {
		return env, unusable(relay.ReasonJSON, "%s", err)
	}
	var id, typ, data, created, createdAt *member
	for i := range members {
		m := &members[i]
		switch m.name {
		case "id":
			id = m
		case "type":
			typ = m
		case "data":
			data = m
		case "created":
			created = m
		case "created_at":
			createdAt = m
		}
	}
	if env.id, err = id.text(); err != nil {
		return env, unusable(relay.ReasonID, "id %s", err)
	}
	if len(env.id) == 0 || len(env.id) > MaxID {
		n := len(env.id)
		env.id = ""
		return env, unusable(relay.ReasonID, "id has %d bytes, 1 to %d are allowed", n, MaxID)
	}
	if env.typ, err = typ.text(); err != nil {
		return env, unusable(relay.ReasonType, "type %s", err)
	}
	if err := CheckType(env.typ); err != nil {
		env.typ = ""
		return env, unusable(relay.ReasonType, "%s", err)
	}
	if data == nil {
		return env, unusable(relay.ReasonData, "data is missing")
	}
	if data.raw.Kind() != '{' {
		return env, unusable(relay.ReasonData, "data is no object")
	}
	env.data = data.raw
	env.resource = resource(env.typ, env.data)

	when := createdAt
	if when == nil {
		when = created
	}
	var ok bool
	if env.created, ok = when.time(); !ok {
		when = nil // it says nothing to us, so it travels on as it is
	}
	env.members = further(members, id, typ, data, when)
	if head, tail := body[:data.start], body[data.end:]; len(head)+len(tail) <= maxFrame {
		env.head, env.tail = head, tail
	}
	return env, nil
}

func unusable(reason, format string, args ...any) error {
	return &relay.Unusable{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

// CheckType says whether typ is a legal event type: at most [MaxType] bytes in 1 to
// [MaxTypeTokens] non-empty tokens separated by dots.
func CheckType(typ string) error {
	if typ == "" {
		return fmt.Errorf("type is empty")
	}
	if len(typ) > MaxType {
		return fmt.Errorf("type has %d bytes, at most %d are allowed", len(typ), MaxType)
	}
	tokens := 0
	for token := range strings.SplitSeq(typ, ".") {
		tokens++
		if token == "" {
			return fmt.Errorf("type has an empty token")
		}
	}
	if tokens > MaxTypeTokens {
		return fmt.Errorf("type has %d tokens, at most %d are allowed", tokens, MaxTypeTokens)
	}
	return nil
}

// A member of an object, by its place in the body.
type member struct {
	name       string
	raw        jsontext.Value // part of the body
	start, end int            // where raw lies in it
}

// text is the member's string. A missing member, another kind of value and a string
// that is no Unicode are errors.
func (m *member) text() (string, error) {
	if m == nil {
		return "", fmt.Errorf("is missing")
	}
	if m.raw.Kind() != '"' {
		return "", fmt.Errorf("is no string")
	}
	s, err := jsontext.AppendUnquote(nil, m.raw)
	if err != nil {
		return "", errNotUnicode
	}
	return string(s), nil
}

// time reads RFC 3339 or Unix seconds, in the years 1 to 9999, which is all that
// RFC 3339 can write.
func (m *member) time() (t time.Time, ok bool) {
	if m == nil {
		return t, false
	}
	switch m.raw.Kind() {
	case '"':
		s, _ := m.text()
		parsed, err := time.Parse(time.RFC3339, s)
		if err != nil {
			return t, false
		}
		t = parsed
	case '0':
		seconds, err := strconv.ParseFloat(string(m.raw), 64)
		if err != nil || seconds < -62135596800 || seconds > 253402300799 {
			return t, false
		}
		whole := int64(seconds)
		t = time.Unix(whole, int64((seconds-float64(whole))*1e6)*1e3)
	default:
		return t, false
	}
	t = t.UTC()
	return t, t.Year() >= 1 && t.Year() <= 9999
}

// topLevel lists the members of the object that is the whole body.
func topLevel(body []byte) ([]member, error) {
	if !utf8.Valid(body) {
		return nil, fmt.Errorf("body is not UTF-8")
	}
	dec := newDecoder(body)
	if dec.PeekKind() != '{' {
		if _, err := dec.ReadValue(); err != nil {
			return nil, syntaxError(dec, err)
		}
		return nil, fmt.Errorf("body is no JSON object")
	}
	members, err := readObject(dec, body)
	if err != nil {
		return nil, syntaxError(dec, err)
	}
	if rest := bytes.TrimLeft(body[dec.InputOffset():], " \t\r\n"); len(rest) > 0 {
		return nil, fmt.Errorf("body goes on after the JSON object, at byte %d", len(body)-len(rest))
	}
	return members, nil
}

func newDecoder(text []byte) *jsontext.Decoder {
	// The body is known to be UTF-8; what the second option lets through are escapes
	// of unpaired surrogates, which RFC 8259 allows and data may hold.
	return jsontext.NewDecoder(bytes.NewBuffer(text),
		jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
}

// readObject lists the members of the object that the decoder has before it in text.
func readObject(dec *jsontext.Decoder, text []byte) ([]member, error) {
	if _, err := dec.ReadToken(); err != nil {
		return nil, err
	}
	members := make([]member, 0, 8)
	for dec.PeekKind() != '}' {
		name, err := dec.ReadToken()
		if err != nil {
			return nil, err
		}
		m := member{name: name.String()}
		value, err := dec.ReadValue()
		if err != nil {
			return nil, err
		}
		m.end = int(dec.InputOffset())
		m.start = m.end - len(value)
		m.raw = text[m.start:m.end]
		members = append(members, m)
	}
	_, err := dec.ReadToken()
	return members, err
}

// syntaxError says where the JSON breaks, without a word of what it says.
func syntaxError(dec *jsontext.Decoder, err error) error {
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return fmt.Errorf("body is not JSON, near byte %d of it", syntax.ByteOffset)
	}
	return fmt.Errorf("body is not JSON: it ends at byte %d", dec.InputOffset())
}

// resource is what the event is about: the string <first token of the type>_id in the
// data, else its id, else nothing. The data is known to be a JSON object.
func resource(typ string, data []byte) string {
	family, _, _ := strings.Cut(typ, ".")
	members, err := readObject(newDecoder(data), data)
	if err != nil {
		return "" // not reached: it was read once before
	}
	var own, id string
	for i := range members {
		switch m := &members[i]; m.name {
		case family + "_id":
			own = m.loose()
		case "id":
			id = m.loose()
		}
	}
	if own != "" {
		return own
	}
	return id
}

// loose is the member's string with U+FFFD in the place of unpaired surrogates, or
// empty for any other value.
func (m *member) loose() string {
	if m.raw.Kind() != '"' {
		return ""
	}
	s, _ := jsontext.AppendUnquote(nil, m.raw)
	return string(s)
}

// further writes the members that are not known as one compact object, in ASCII, so
// that it can travel in a header; nil if there are none.
func further(members []member, known ...*member) []byte {
	var out bytes.Buffer
next:
	for i := range members {
		m := &members[i]
		for _, k := range known {
			if k != nil && k.name == m.name {
				continue next
			}
		}
		sep := byte(',')
		if out.Len() == 0 {
			sep = '{'
		}
		out.WriteByte(sep)
		name, _ := jsontext.AppendQuote(nil, m.name)
		out.Write(name)
		out.WriteByte(':')
		if err := json.Compact(&out, m.raw); err != nil {
			return nil // not reached: the decoder took it
		}
	}
	if out.Len() == 0 {
		return nil
	}
	out.WriteByte('}')
	return toASCII(out.Bytes())
}

// toASCII replaces what is not ASCII in JSON text by escapes of the same meaning.
func toASCII(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for _, r := range string(text) {
		switch {
		case r < 0x7f:
			out = append(out, byte(r))
		case r <= 0xffff:
			out = fmt.Appendf(out, `\u%04x`, r)
		default:
			r -= 0x10000
			out = fmt.Appendf(out, `\u%04x\u%04x`, 0xd800+(r>>10), 0xdc00+(r&0x3ff))
		}
	}
	return out
}

// Body is the delivery that the event was made of: the very bytes if they were kept, else
// an envelope of the same meaning around the same data.
func Body(ev relay.Event) ([]byte, error) {
	data := ev.CloudEvent.Data()
	if len(ev.Head) > 0 {
		return slices.Concat(ev.Head, data, ev.Tail), nil
	}
	id, err := json.Marshal(ev.CloudEvent.ID())
	if err != nil {
		return nil, err
	}
	typ, err := json.Marshal(strings.TrimPrefix(ev.CloudEvent.Type(), TypePrefix))
	if err != nil {
		return nil, err
	}
	when := ev.CloudEvent.Time().UTC().Format(time.RFC3339Nano)
	body := fmt.Appendf(nil, `{"id":%s,"type":%s,"created_at":%q,"data":%s`, id, typ, when, data)
	if further := bytes.TrimPrefix(ev.Members, []byte("{")); len(further) > 0 {
		return append(append(body, ','), further...), nil
	}
	return append(body, '}'), nil
}
