package main

import (
	"maps"
	"net/http"
	"testing"
)

const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestTraceContextGoesWithTheEvent(t *testing.T) {
	t.Parallel()
	collector := startHook(t, http.StatusOK)
	for name, env := range map[string][]string{
		"no exporter":             nil,
		"nobody takes the traces": {"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1"},
		"an exporter":             {"OTEL_EXPORTER_OTLP_ENDPOINT=" + collector.URL},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := launch{env: append(env, withSecret...)}.start(t).waitReady(t)
			body := newBody("evt_1")
			header := signature(sign(secret, body))
			maps.Copy(header, map[string]string{"Traceparent": traceparent, "Tracestate": "vendor=1"})
			p.mustDeliver(t, "together", body, header, http.StatusOK)
			got := messages(t, p.nats, "TOGETHER")[0].Header
			if got.Get("ce-traceparent") != traceparent || got.Get("ce-tracestate") != "vendor=1" {
				t.Errorf("the event's trace context is %q, %q", got.Get("ce-traceparent"), got.Get("ce-tracestate"))
			}
			p.stop(t)
			if name == "an exporter" && len(collector.paths()) == 0 {
				t.Error("no traces were sent")
			}
		})
	}
}
