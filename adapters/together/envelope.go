package together

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
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
	fields     []relay.Field // members of data
	members    []byte        // nil if there are none
	head, tail []byte
}

// readEnvelope walks the body once. Its error is a *relay.Unusable; what was read up
// to there is returned beside it. Of members that appear twice the last one counts.
func readEnvelope(body []byte) (envelope, error) {
	var env envelope
	members, fields, err := readBody(body)
	if err != nil {
		return env, unusable(relay.ReasonJSON, "%s", err)
	}
	var id, typ, data, created, createdAt *relay.Field
	for i := range members {
		m := &members[i]
		switch string(m.Name) {
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
	if env.id, err = text(id); err != nil {
		return env, unusable(relay.ReasonID, "id %s", err)
	}
	if len(env.id) == 0 || len(env.id) > MaxID {
		n := len(env.id)
		env.id = ""
		return env, unusable(relay.ReasonID, "id has %d bytes, 1 to %d are allowed", n, MaxID)
	}
	if env.typ, err = text(typ); err != nil {
		return env, unusable(relay.ReasonType, "type %s", err)
	}
	if err := CheckType(env.typ); err != nil {
		env.typ = ""
		return env, unusable(relay.ReasonType, "%s", err)
	}
	if data == nil {
		return env, unusable(relay.ReasonData, "data is missing")
	}
	if data.Value[0] != '{' {
		return env, unusable(relay.ReasonData, "data is no object")
	}
	env.data, env.fields = data.Value, fields
	env.resource = resource(env.typ, fields)

	when := createdAt
	if when == nil || string(when.Value) == "null" {
		when = created
	}
	var ok bool
	if env.created, ok = moment(when); !ok {
		env.created = time.Time{}
		when = nil // it says nothing to us, so it travels on as it is
	}
	env.members = further(members, id, typ, data, when)
	start := cap(body) - cap(data.Value) // data is a part of body
	if head, tail := body[:start], body[start+len(data.Value):]; len(head)+len(tail) <= maxFrame {
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

// text is a member's string. A missing member, another kind of value and a string that
// is no Unicode are errors.
func text(m *relay.Field) (string, error) {
	if m == nil {
		return "", fmt.Errorf("is missing")
	}
	if m.Value[0] != '"' {
		return "", fmt.Errorf("is no string")
	}
	if plain := m.Value[1 : len(m.Value)-1]; bytes.IndexByte(plain, '\\') < 0 {
		return string(plain), nil
	}
	s, err := jsontext.AppendUnquote(nil, m.Value)
	if err != nil {
		return "", fmt.Errorf("holds an unpaired surrogate")
	}
	return string(s), nil
}

// moment reads RFC 3339 or Unix seconds, in the years 1 to 9999, which is all that RFC
// 3339 can write.
func moment(m *relay.Field) (t time.Time, ok bool) {
	if m == nil {
		return t, false
	}
	if m.Value[0] == '"' {
		s, err := text(m)
		if strings.Contains(s, ",") {
			return t, false // Go takes it for a point, RFC 3339 does not
		}
		if err == nil {
			t, err = time.Parse(time.RFC3339, strings.ToUpper(s))
		}
		if err != nil {
			return time.Time{}, false
		}
	} else {
		seconds, err := strconv.ParseFloat(string(m.Value), 64) // no other kind of value is one
		if err != nil || seconds < -62135596800 || seconds > 253402300799 {
			return t, false
		}
		whole := int64(seconds)
		t = time.Unix(whole, int64((seconds-float64(whole))*1e6)*1e3)
	}
	t = t.UTC()
	return t, t.Year() >= 1 && t.Year() <= 9999
}

// A walker is a decoder that is used again and again.
type walker struct {
	text bytes.Buffer
	dec  *jsontext.Decoder
}

var walkers = sync.Pool{New: func() any { return &walker{dec: new(jsontext.Decoder)} }}

// The body is known to be UTF-8; what the second option lets through are escapes of
// unpaired surrogates, which RFC 8259 allows and data may hold.
var walking = []jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}

// readBody lists the members of the object that is the whole body, and those of its data.
func readBody(body []byte) (members, data []relay.Field, err error) {
	if !utf8.Valid(body) {
		return nil, nil, fmt.Errorf("body is not UTF-8")
	}
	w := walkers.Get().(*walker)
	w.text = *bytes.NewBuffer(body)
	w.dec.Reset(&w.text, walking...)
	defer func() {
		w.text = bytes.Buffer{}
		w.dec.Reset(&w.text)
		walkers.Put(w)
	}()
	if w.dec.PeekKind() != '{' {
		if _, err := w.dec.ReadValue(); err != nil {
			return nil, nil, w.explain(err)
		}
		return nil, nil, fmt.Errorf("body is no JSON object")
	}
	members, err = w.object(body, func(name []byte) (bool, error) {
		if string(name) != "data" || w.dec.PeekKind() != '{' {
			return false, nil
		}
		data, err = w.object(body, nil)
		return true, err
	})
	if err != nil {
		return nil, nil, w.explain(err)
	}
	if rest := bytes.TrimLeft(body[w.dec.InputOffset():], " \t\r\n"); len(rest) > 0 {
		return nil, nil, fmt.Errorf("body goes on after the JSON object, at byte %d", len(body)-len(rest))
	}
	return members, data, nil
}

// object lists the members of the object that comes next. Where enter is given, it may
// walk a member's value itself.
func (w *walker) object(body []byte, enter func(name []byte) (bool, error)) ([]relay.Field, error) {
	if _, err := w.dec.ReadToken(); err != nil {
		return nil, err
	}
	fields := make([]relay.Field, 0, 8)
	for w.dec.PeekKind() != '}' {
		quoted, err := w.dec.ReadValue()
		if err != nil {
			return nil, err
		}
		end := int(w.dec.InputOffset())
		name := body[end-len(quoted)+1 : end-1]
		if bytes.IndexByte(name, '\\') >= 0 {
			name, _ = jsontext.AppendUnquote(nil, quoted)
		}
		// What lies between the name and its value is a colon and white space.
		start := end + bytes.IndexByte(body[end:], ':') + 1
		start += len(body[start:]) - len(bytes.TrimLeft(body[start:], " \t\r\n"))
		entered := false
		if enter != nil {
			if entered, err = enter(name); err != nil {
				return nil, err
			}
		}
		if !entered {
			if err := w.dec.SkipValue(); err != nil {
				return nil, err
			}
		}
		fields = append(fields, relay.Field{Name: name, Value: body[start:w.dec.InputOffset()]})
	}
	_, err := w.dec.ReadToken()
	return fields, err
}

// explain says where the JSON breaks, without a word of what it says.
func (w *walker) explain(err error) error {
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return fmt.Errorf("body is not JSON, near byte %d of it", syntax.ByteOffset)
	}
	return fmt.Errorf("body is not JSON: it ends at byte %d", w.dec.InputOffset())
}

// noResource stands for the resource of an event that names none.
const noResource = "_"

// resource is what the event is about: the string <first token of the type>_id in the
// data, else its id, else noResource.
func resource(typ string, data []relay.Field) string {
	family, _, _ := strings.Cut(typ, ".")
	var own, id string
	for i := range data {
		name := data[i].Name
		switch rest, ok := bytes.CutPrefix(name, []byte(family)); {
		case ok && string(rest) == "_id":
			own = loose(data[i].Value)
		case string(name) == "id":
			id = loose(data[i].Value)
		}
	}
	return cmp.Or(own, id, noResource)
}

// loose is a string with U+FFFD in the place of unpaired surrogates, or empty for any
// other value.
func loose(value []byte) string {
	if value[0] != '"' {
		return ""
	}
	s, _ := jsontext.AppendUnquote(nil, value)
	return string(s)
}

// further writes the members that are not known as one compact object, in ASCII, so
// that it can travel in a header; nil if there are none.
func further(members []relay.Field, known ...*relay.Field) []byte {
	var out bytes.Buffer
next:
	for i := range members {
		m := &members[i]
		for _, k := range known {
			if k != nil && bytes.Equal(k.Name, m.Name) {
				continue next
			}
		}
		sep := byte(',')
		if out.Len() == 0 {
			sep = '{'
		}
		out.WriteByte(sep)
		name, _ := jsontext.AppendQuote(nil, m.Name)
		out.Write(name)
		out.WriteByte(':')
		if err := json.Compact(&out, m.Value); err != nil {
			return nil // not reached: the walker took it
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
