package telemetry

import (
	"context"
	"fmt"
	"net/http"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	oteltrace "go.opentelemetry.io/otel/trace"

	"together-relay/relay"
)

// Traces makes a span of each request and of each publish, and sends them to an OTLP
// endpoint.
type Traces struct {
	provider *trace.TracerProvider
	tracer   oteltrace.Tracer
}

// NewTraces starts an exporter, which reads its settings from the environment by the
// OpenTelemetry names. The exporter sends in the background and never blocks a request;
// what goes wrong there is told to failed. OpenTelemetry has one such function in a
// process.
func NewTraces(ctx context.Context, version string, failed func(error)) (*Traces, error) {
	otel.SetErrorHandler(otel.ErrorHandlerFunc(failed))
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("start trace exporter: %w", err)
	}
	about, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "together-relay"), attribute.String("service.version", version)),
		resource.WithFromEnv(), resource.WithTelemetrySDK())
	if err != nil {
		return nil, fmt.Errorf("describe trace resource: %w", err)
	}
	return newTraces(trace.WithBatcher(exporter), trace.WithResource(about)), nil
}

func newTraces(options ...trace.TracerProviderOption) *Traces {
	provider := trace.NewTracerProvider(options...)
	return &Traces{provider: provider, tracer: provider.Tracer("together-relay")}
}

// Close sends what is still to be sent. It blocks until that is done or ctx is.
func (t *Traces) Close(ctx context.Context) error { return t.provider.Shutdown(ctx) }

// Requests makes a span of each request. A request that was not traced by its sender
// carries the new span's context from here on, so that its event does too.
func (t *Traces) Requests(next http.Handler) http.Handler {
	var w3c propagation.TraceContext
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := propagation.HeaderCarrier(r.Header)
		sender := w3c.Extract(r.Context(), header)
		ctx, span := t.tracer.Start(sender, r.Method+" request",
			oteltrace.WithSpanKind(oteltrace.SpanKindServer),
			oteltrace.WithAttributes(attribute.String("http.request.method", r.Method), attribute.String("url.path", r.URL.Path)))
		defer span.End()
		if !oteltrace.SpanContextFromContext(sender).IsValid() {
			r.Header.Del("tracestate") // it belongs to the trace that is not there
			w3c.Inject(ctx, header)
		}
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// Log makes a span of each publish.
func (t *Traces) Log(next relay.Log) relay.Log { return tracedLog{next, t.tracer} }

type tracedLog struct {
	next   relay.Log
	tracer oteltrace.Tracer
}

func (l tracedLog) Append(ctx context.Context, ev relay.Event) (relay.Stored, error) {
	ctx, span := l.start(ctx, "publish event",
		attribute.String("cloudevents.event_id", ev.CloudEvent.ID()), attribute.String("cloudevents.event_type", ev.CloudEvent.Type()))
	defer span.End()
	stored, err := l.next.Append(ctx, ev)
	if err == nil {
		span.SetAttributes(attribute.String("messaging.destination.name", stored.Subject), attribute.Bool("relay.duplicate", stored.Duplicate))
	}
	return stored, fail(span, err)
}

func (l tracedLog) Bury(ctx context.Context, letter relay.DeadLetter) error {
	ctx, span := l.start(ctx, "publish dead letter", attribute.String("relay.reason", letter.Reason))
	defer span.End()
	return fail(span, l.next.Bury(ctx, letter))
}

func (l tracedLog) start(ctx context.Context, name string, about ...attribute.KeyValue) (context.Context, oteltrace.Span) {
	about = append(about, attribute.String("messaging.system", "nats"))
	return l.tracer.Start(ctx, name, oteltrace.WithSpanKind(oteltrace.SpanKindProducer), oteltrace.WithAttributes(about...))
}

func fail(span oteltrace.Span, err error) error {
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, err.Error())
	}
	return err
}
