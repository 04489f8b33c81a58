package together

import (
	"testing"
)

// The vectors are the contract's: an id never changes.
func TestFactID(t *testing.T) {
	t.Parallel()
	const tune = "ft-01234567-89ab-cdef-0123-456789abcdef"
	for _, c := range []struct{ typ, resource, discriminator, id string }{
		{"fine_tune.completed", tune, "", "evt_84928c052917763b9bee147fab0926d1"},
		{"fine_tune.checkpoint", tune, "step=48;kind=intermediate", "evt_febe8897e589e49889c6274e0b04f507"},
		{"batch.done", "01234567-8901-2345-6789-012345678901", "", "evt_0f22d4dd27d66b8cdf2c16249c31987d"},
		{"model.deprecated", "zai-org/GLM-5", "product=serverless;sunset=2026-06-22", "evt_c01f63d96912c7fc94e4ba85b082a04b"},
		{"endpoint.started", "endpoint-d23901de-ef8f-44bf-b3e7-de9c1ca8f2d7", "seq=3", "evt_d51a102f4cc4debd4aa1c78815a33d8e"},
	} {
		if id := factID(c.typ, c.resource, c.discriminator); id != c.id {
			t.Errorf("the id of %s of %s is %s, not %s", c.typ, c.resource, id, c.id)
		}
	}
}
