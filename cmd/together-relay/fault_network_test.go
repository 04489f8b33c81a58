package main

import (
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// networkCut cuts the cable between relay and broker in one of two ways: each connection
// breaks and none can be made, or the bytes just do not arrive until it is mended.
func networkCut(r *rig) func() {
	c := r.behindCable()
	return func() {
		if r.rng.IntN(2) == 0 {
			c.set(cableState{severed: true})
		} else {
			c.set(cableState{held: true})
		}
		hold(r.between(200*time.Millisecond, 2500*time.Millisecond))
		if r.rng.IntN(2) == 0 {
			c.set(cableState{severed: true}) // what was under way is lost
		}
		c.set(cableState{})
	}
}

// networkSlow makes each piece of data take up to half the time that the relay waits, so
// that some acknowledgements come in time and some do not.
func networkSlow(r *rig) func() {
	c := r.behindCable()
	return func() {
		for range 3 {
			c.set(cableState{delay: r.between(20*time.Millisecond, 600*time.Millisecond)})
			hold(r.between(300*time.Millisecond, time.Second))
		}
		c.set(cableState{})
	}
}

func (r *rig) behindCable() *cable {
	r.t.Helper()
	b := node{store: r.t.TempDir()}.startBroker(r.t)
	c := newCable(r.t, strings.TrimPrefix(b.url, "nats://"))
	r.addRelay(launch{}, "nats://"+c.listener.Addr().String())
	r.nats = func() string { return b.url }
	return c
}

// A cable is a TCP connection that the test has in its hands.
type cable struct {
	listener net.Listener
	to       string
	running  sync.WaitGroup

	mu      sync.Mutex
	state   cableState
	changed chan struct{} // closed when the state changes
	ends    map[net.Conn]bool
}

type cableState struct {
	severed bool          // connections break
	held    bool          // bytes wait
	delay   time.Duration // of each piece
}

func newCable(t testing.TB, to string) *cable {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{listener: listener, to: to, changed: make(chan struct{}), ends: map[net.Conn]bool{}}
	c.running.Go(c.accept)
	t.Cleanup(func() {
		closeQuietly(listener)
		c.set(cableState{severed: true})
		c.running.Wait()
	})
	return c
}

func (c *cable) set(s cableState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = s
	close(c.changed)
	c.changed = make(chan struct{})
	if s.severed {
		for end := range c.ends {
			closeQuietly(end)
		}
	}
}

func (c *cable) now() (cableState, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state, c.changed
}

func (c *cable) accept() {
	for {
		near, err := c.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.DialTimeout("tcp", c.to, time.Second)
		if err != nil {
			closeQuietly(near)
			continue
		}
		c.mu.Lock()
		c.ends[near], c.ends[far] = true, true
		severed := c.state.severed
		c.mu.Unlock()
		if severed {
			closeQuietly(near)
		}
		c.running.Go(func() { c.carry(far, near) })
		c.running.Go(func() { c.carry(near, far) })
	}
}

// carry moves bytes until one end breaks, and breaks the other one then.
func (c *cable) carry(to, from net.Conn) {
	defer func() {
		closeQuietly(to)
		closeQuietly(from)
		c.mu.Lock()
		delete(c.ends, from)
		c.mu.Unlock()
	}()
	piece := make([]byte, 16<<10)
	for {
		n, err := from.Read(piece)
		if n == 0 && err != nil {
			return
		}
		state, changed := c.now()
		for state.held {
			<-changed
			state, changed = c.now()
		}
		if state.delay > 0 {
			hold(state.delay)
		}
		if _, err := to.Write(piece[:n]); err != nil {
			return
		}
	}
}
