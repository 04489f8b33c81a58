package togethersim_test

import (
	"fmt"
	"net/http/httptest"
	"time"

	"together-relay/adapters/together/togethersim"
)

func Example() {
	clock := togethersim.NewClock(start)
	world := togethersim.New(togethersim.Config{Now: clock.Now})
	server := httptest.NewServer(world.Handler())
	defer server.Close()

	id := world.AddBatch(togethersim.Batch{Script: togethersim.Script{ID: "b-1"}, Output: "file-1", Good: 2})
	clock.Turn(time.Minute)
	world.Move(id, "IN_PROGRESS")
	clock.Turn(time.Hour)
	world.Move(id, "COMPLETED")
	world.Set(togethersim.Faults{Rate: 0.1})

	for _, f := range world.Facts(start, clock.Now()) {
		fmt.Println(f.At.Format(time.TimeOnly), f.Type, f.Resource, f.Data["total_tokens"])
	}
	// Output:
	// 09:01:00 batch.in_progress b-1 <nil>
	// 10:01:00 batch.done b-1 28
}
