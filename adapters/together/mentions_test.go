package together

import "testing"

func TestMentions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		body, word string
		id, data   bool
	}{
		{`{"id":"evt_1","data":{"batch_id":"b"}}`, "evt_1", true, false},
		{`{"id":"evt_1","data":{"batch_id":"b"}}`, "b", false, true},
		{`{"id":"evt_1","data":{"batch_id":"b"}}`, "evt", false, false},
		{`{"id":"evt_1","data":{"inner":{"id":"b"}}}`, "b", false, false},
		{`{"id":7,"data":[]}`, "7", false, false},
		{`{"id":7,"data":{"n":7}}`, "", false, false},
		{`{"id":"evt_1","data":{`, "evt_1", true, true},
		{`{"id":"evt_12","data":{`, "evt_1", false, false},
		{``, "evt_1", false, false},
	} {
		if id, data := Mentions([]byte(c.body), c.word); id != c.id || data != c.data {
			t.Errorf("Mentions(%s, %q) = %v, %v", c.body, c.word, id, data)
		}
	}
}
