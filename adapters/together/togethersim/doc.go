// Package togethersim is a stand-in for Together's API, for tests and for trying things out.
//
// A [World] is made from a seed and a moment. It holds scripts: what happens to each job,
// and when. New ones keep arriving. What a job looks like at a moment follows from its
// script and that moment alone, so the clock that is passed in moves everything, and
// nothing runs in the background. [World.Handler] shows the world the way Together's API
// does, [World.Facts] says what is true, and [Faults] are dials for whatever may go wrong
// in between.
//
// It knows nothing of the relay and of the package together, on purpose: it is a second
// reading of the same contract, and where the two differ, one of them is wrong.
package togethersim
