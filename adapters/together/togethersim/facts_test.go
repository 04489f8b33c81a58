package togethersim_test

import (
	"testing"

	"together-relay/adapters/together/togethersim"
)

func TestIDs(t *testing.T) {
	t.Parallel()
	const job = "ft-01234567-89ab-cdef-0123-456789abcdef"
	for _, v := range [][4]string{
		{"fine_tune.completed", job, "", "evt_84928c052917763b9bee147fab0926d1"},
		{"fine_tune.checkpoint", job, "step=48;kind=intermediate", "evt_febe8897e589e49889c6274e0b04f507"},
		{"batch.done", "01234567-8901-2345-6789-012345678901", "", "evt_0f22d4dd27d66b8cdf2c16249c31987d"},
		{"model.deprecated", "zai-org/GLM-5", "product=serverless;sunset=2026-06-22", "evt_c01f63d96912c7fc94e4ba85b082a04b"},
		{"endpoint.started", "endpoint-d23901de-ef8f-44bf-b3e7-de9c1ca8f2d7", "seq=3", "evt_d51a102f4cc4debd4aa1c78815a33d8e"},
	} {
		if got := togethersim.ID(v[0], v[1], v[2]); got != v[3] {
			t.Errorf("%s of %s: %s, want %s", v[0], v[1], got, v[3])
		}
	}
}
