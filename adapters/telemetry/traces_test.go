package telemetry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	oteltrace "go.opentelemetry.io/otel/trace"

	"together-relay/relay"
)

// traced returns traces whose spans can be looked at as soon as they end.
func traced(t *testing.T) (*Traces, *tracetest.InMemoryExporter) {
	t.Helper()
	spans := tracetest.NewInMemoryExporter()
	traces := newTraces(trace.WithSyncer(spans))
	t.Cleanup(func() {
		if err := traces.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return traces, spans
}

// request sends one request through the traces to the handler.
func request(t *testing.T, traces *Traces, header http.Header, handler http.HandlerFunc) {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/webhooks/together?secret=x", nil)
	maps.Copy(r.Header, header)
	traces.Requests(handler).ServeHTTP(httptest.NewRecorder(), r)
}

func attributes(span tracetest.SpanStub) map[string]any {
	all := map[string]any{}
	for _, a := range span.Attributes {
		all[string(a.Key)] = a.Value.AsInterface()
	}
	return all
}

func newEvent() relay.Event {
	ev := relay.Event{CloudEvent: event.New()}
	ev.CloudEvent.SetID("evt_1")
	ev.CloudEvent.SetType("ai.together.batch.done")
	return ev
}

func TestPublishIsAChildOfItsRequest(t *testing.T) {
	t.Parallel()
	traces, spans := traced(t)
	log := traces.Log(&fakeLog{})
	request(t, traces, nil, func(_ http.ResponseWriter, r *http.Request) {
		if _, err := log.Append(r.Context(), newEvent()); err != nil {
			t.Error(err)
		}
		if err := log.Bury(r.Context(), relay.DeadLetter{Reason: relay.ReasonSchema}); err != nil {
			t.Error(err)
		}
	})
	got := spans.GetSpans()
	if len(got) != 3 {
		t.Fatalf("%d spans, want 3", len(got))
	}
	publish, bury, root := got[0], got[1], got[2]
	for _, c := range []struct {
		span tracetest.SpanStub
		name string
		kind oteltrace.SpanKind
		want map[string]any
	}{
		{root, "POST request", oteltrace.SpanKindServer, map[string]any{"http.request.method": "POST", "url.path": "/webhooks/together"}},
		{publish, "publish event", oteltrace.SpanKindProducer, map[string]any{"messaging.system": "nats", "messaging.destination.name": "together.batch.done.b1",
			"cloudevents.event_id": "evt_1", "cloudevents.event_type": "ai.together.batch.done", "relay.duplicate": true}},
		{bury, "publish dead letter", oteltrace.SpanKindProducer, map[string]any{"messaging.system": "nats", "relay.reason": "schema"}},
	} {
		if c.span.Name != c.name || c.span.SpanKind != c.kind || c.span.Status.Code != codes.Unset {
			t.Errorf("span = %q, %v, %v; want %q, %v", c.span.Name, c.span.SpanKind, c.span.Status, c.name, c.kind)
		}
		if diff := cmp.Diff(c.want, attributes(c.span)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
	if root.Parent.IsValid() {
		t.Errorf("the request has a parent, %v", root.Parent)
	}
	for _, child := range []tracetest.SpanStub{publish, bury} {
		if child.Parent.SpanID() != root.SpanContext.SpanID() || child.SpanContext.TraceID() != root.SpanContext.TraceID() {
			t.Errorf("%q is no child of the request", child.Name)
		}
	}
}

func TestUntracedRequestIsGivenATrace(t *testing.T) {
	t.Parallel()
	for _, sent := range []http.Header{
		nil,
		{"Traceparent": {"rubbish"}},
		{"Traceparent": {"00-00000000000000000000000000000000-00f067aa0ba902b7-01"}, "Tracestate": {"vendor=x"}},
		{"Tracestate": {"vendor=x"}},
	} {
		traces, spans := traced(t)
		var header http.Header
		request(t, traces, sent, func(_ http.ResponseWriter, r *http.Request) { header = r.Header })
		span := spans.GetSpans()[0].SpanContext
		want := http.Header{"Traceparent": {fmt.Sprintf("00-%s-%s-01", span.TraceID(), span.SpanID())}}
		if diff := cmp.Diff(want, header); diff != "" {
			t.Errorf("%v: headers (-want +got):\n%s", sent, diff)
		}
	}
}

func TestTracedRequestKeepsItsTrace(t *testing.T) {
	t.Parallel()
	traces, spans := traced(t)
	const parent, state = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "vendor=x"
	var header http.Header
	request(t, traces, http.Header{"Traceparent": {parent}, "Tracestate": {state}}, func(_ http.ResponseWriter, r *http.Request) { header = r.Header })
	if header.Get("traceparent") != parent || header.Get("tracestate") != state {
		t.Errorf("headers = %v", header)
	}
	span := spans.GetSpans()[0]
	if span.SpanContext.TraceID().String() != parent[3:35] || span.Parent.SpanID().String() != parent[36:52] || !span.Parent.IsRemote() {
		t.Errorf("span %v with parent %v", span.SpanContext, span.Parent)
	}
	if span.SpanContext.TraceState().String() != state {
		t.Errorf("tracestate = %q", span.SpanContext.TraceState())
	}
}

func TestRequestThatItsSenderDoesNotSample(t *testing.T) {
	t.Parallel()
	traces, spans := traced(t)
	request(t, traces, http.Header{"Traceparent": {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"}}, func(http.ResponseWriter, *http.Request) {})
	if n := len(spans.GetSpans()); n != 0 {
		t.Errorf("%d spans, want none", n)
	}
}

func TestRequestThatPanicsHasItsSpan(t *testing.T) {
	t.Parallel()
	traces, spans := traced(t)
	func() {
		defer func() { _ = recover() }()
		request(t, traces, nil, func(http.ResponseWriter, *http.Request) { panic("x") })
	}()
	if n := len(spans.GetSpans()); n != 1 {
		t.Errorf("%d spans, want 1", n)
	}
}

func TestErrorsAreRecorded(t *testing.T) {
	t.Parallel()
	away := &relay.NotStored{Cause: errors.New("away")}
	for name, call := range map[string]func(relay.Log) error{
		"publish event":       func(l relay.Log) error { _, err := l.Append(context.Background(), newEvent()); return err },
		"publish dead letter": func(l relay.Log) error { return l.Bury(context.Background(), relay.DeadLetter{}) },
	} {
		traces, spans := traced(t)
		if err := call(traces.Log(&fakeLog{err: away})); !errors.Is(err, away) {
			t.Errorf("%s: error = %v", name, err)
		}
		span := spans.GetSpans()[0]
		if span.Name != name || span.Status != (trace.Status{Code: codes.Error, Description: away.Error()}) {
			t.Errorf("span %q: status = %+v", span.Name, span.Status)
		}
		if len(span.Events) != 1 || span.Events[0].Name != "exception" {
			t.Errorf("%s: events = %+v", name, span.Events)
		}
		if _, ok := attributes(span)["messaging.destination.name"]; ok {
			t.Errorf("%s: there is a subject of what was not stored", name)
		}
	}
}

func TestLogIsCalledInItsSpan(t *testing.T) {
	t.Parallel()
	traces, spans := traced(t)
	inner := &fakeLog{}
	if _, err := traces.Log(inner).Append(context.Background(), newEvent()); err != nil {
		t.Fatal(err)
	}
	if got, want := inner.span.SpanID(), spans.GetSpans()[0].SpanContext.SpanID(); got != want {
		t.Errorf("the log was called in span %v, want %v", got, want)
	}
}

// Nothing is sent as long as there is nothing to send, so this needs no collector.
func TestNewTracesStartsAndCloses(t *testing.T) {
	t.Parallel()
	traces, err := NewTraces(context.Background(), "v1.2.3", func(err error) { t.Log(err) })
	if err != nil {
		t.Fatal(err)
	}
	if err := traces.Close(context.Background()); err != nil {
		t.Error(err)
	}
}
