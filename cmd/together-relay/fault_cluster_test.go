package main

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
)

func leaderKilled(r *rig) func() {
	c := r.newCluster()
	return func() {
		b := c.leader()
		b.end(r.t, syscall.SIGKILL)
		hold(r.between(0, 3*time.Second))
		b.start(r.t)
		c.waitWhole()
	}
}

func leaderStopped(r *rig) func() {
	c := r.newCluster()
	return func() {
		b := c.leader()
		b.signal(r.t, syscall.SIGSTOP)
		hold(r.between(500*time.Millisecond, 10*time.Second)) // shorter and longer than an election takes
		b.signal(r.t, syscall.SIGCONT)
		c.waitWhole()
	}
}

// twoOfThreeGone leaves no majority. Nothing may be answered 200 until there is one again.
func twoOfThreeGone(r *rig) func() {
	c := r.newCluster()
	return func() {
		stays := r.rng.IntN(len(c.nodes))
		for i, b := range c.nodes {
			if i != stays {
				b.end(r.t, syscall.SIGKILL)
			}
		}
		hold(r.between(0, 3*time.Second))
		for i, b := range c.nodes {
			if i != stays {
				b.start(r.t)
			}
		}
		c.waitWhole()
	}
}

func rollingRestart(r *rig) func() {
	c := r.newCluster()
	return func() {
		for _, b := range c.nodes {
			b.end(r.t, syscall.SIGTERM)
			b.start(r.t)
			c.waitWhole()
		}
	}
}

func leaderMoved(r *rig) func() {
	c := r.newCluster()
	return func() {
		for range 3 {
			c.moveLeader("TOGETHER")
			c.moveLeader("TOGETHER_DLQ")
			hold(r.between(0, 200*time.Millisecond))
			c.waitWhole()
		}
	}
}

// A cluster is three brokers that keep each message three times.
type cluster struct {
	rig   *rig
	nodes []*broker
}

// newCluster starts three brokers and a relay that may wait for an election.
func (r *rig) newCluster() *cluster {
	r.t.Helper()
	stores := []string{r.t.TempDir(), r.t.TempDir(), r.t.TempDir()}
	c := r.startCluster(func(i int) string { return stores[i] })
	r.addClusterRelay(c)
	return c
}

func (r *rig) addClusterRelay(c *cluster) {
	r.t.Helper()
	r.giveUp = 15 * time.Second
	r.addRelay(launch{args: []string{"--replicas=3", "--publish-timeout=8s"}}, c.urls())
	r.nats = c.urls
	c.waitWhole()
}

func (r *rig) startCluster(store func(i int) string) *cluster {
	r.t.Helper()
	c := &cluster{rig: r}
	ports := []int{fixedPort(r.t), fixedPort(r.t), fixedPort(r.t)}
	var routes []string
	for _, port := range ports {
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", port))
	}
	for i, port := range ports {
		n := node{name: fmt.Sprintf("n%d", i+1), store: store(i)}
		n.cluster = fmt.Sprintf("cluster { name: c1, listen: \"127.0.0.1:%d\", routes: [%s] }", port, strings.Join(routes, ", "))
		c.nodes = append(c.nodes, n.startBroker(r.t))
	}
	for _, b := range c.nodes {
		b.waitHealthy(r.t)
	}
	return c
}

func (c *cluster) urls() string {
	urls := make([]string, len(c.nodes))
	for i, b := range c.nodes {
		urls[i] = b.url
	}
	return strings.Join(urls, ",")
}

// waitWhole blocks until each node is healthy and each replica up to date.
func (c *cluster) waitWhole() {
	c.rig.t.Helper()
	for _, b := range c.nodes {
		b.waitHealthy(c.rig.t)
	}
	within(c.rig.t, 2*patience, "the cluster is whole", func() bool {
		_, whole := leader(c.urls())
		return whole
	})
}

// leader is the node that leads the stream of events.
func (c *cluster) leader() *broker {
	c.rig.t.Helper()
	var found *broker
	within(c.rig.t, patience, "there is a leader", func() bool {
		name, _ := leader(c.urls())
		for _, b := range c.nodes {
			if b.name == name {
				found = b
			}
		}
		return found != nil
	})
	return found
}

// leaderOf is the node that leads a stream.
func (c *cluster) leaderOf(stream string) (found *broker) {
	c.rig.t.Helper()
	js := connect(c.rig.t, c.urls())
	within(c.rig.t, patience, "there is a leader of "+stream, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s, err := js.Stream(ctx, stream)
		for _, b := range c.nodes {
			if err == nil && s.CachedInfo().Cluster != nil && b.name == s.CachedInfo().Cluster.Leader {
				found = b
			}
		}
		return found != nil
	})
	return found
}

// moveLeader makes another node the leader of the stream.
func (c *cluster) moveLeader(stream string) {
	c.rig.t.Helper()
	nc, err := nats.Connect(c.urls())
	if err != nil {
		c.rig.t.Fatal(err)
	}
	defer nc.Close()
	within(c.rig.t, patience, "the leader of "+stream+" has moved", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		answer, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+stream, nil)
		return err == nil && strings.Contains(string(answer.Data), `"success":true`) // else it has none at this moment
	})
}
