package together

import (
	"bytes"
	"encoding/json"
	"slices"

	"together-relay/relay"
)

// Mentions says whether a delivery names the word: as its id, or as a member of its data. A body
// that cannot be read names, as both, whatever stands in it between quotes.
func Mentions(body []byte, word string) (id, data bool) {
	members, fields, err := readBody(body)
	if err != nil {
		quoted, err := json.Marshal(word)
		found := err == nil && bytes.Contains(body, quoted)
		return found, found
	}
	is := func(f relay.Field) bool { return word != "" && loose(f.Value) == word }
	id = slices.ContainsFunc(members, func(f relay.Field) bool { return string(f.Name) == "id" && is(f) })
	return id, slices.ContainsFunc(fields, is)
}
