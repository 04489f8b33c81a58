package togethersim_test

import (
	"testing"
	"time"

	"together-relay/adapters/together/togethersim"
)

func TestSmoke(t *testing.T) {
	b := newBench(t, togethersim.Busy(1))
	t.Log(len(b.rows("/v1/fine-tunes", "data")), len(b.rows("/v1/batches", "")), len(b.rows("/v1/models", "")))
	n := map[string]int{}
	for _, f := range b.Facts(start.Add(-24*time.Hour), start.Add(24*time.Hour)) {
		n[f.Type]++
	}
	t.Log(n)
}
