package together

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// ErrNoWebhooks says that the API knows no webhooks. Its documentation does not either.
var ErrNoWebhooks = errors.New("the API has no webhooks")

const webhooksPath = "/v1/webhooks"

// A Webhook is an address that the provider sends events to.
type Webhook struct {
	ID     string   `json:"id"`
	URL    string   `json:"url"`
	Events []string `json:"events"`
}

// RegisterWebhook asks the provider to send events of these types to the address, signed
// with the secret. The error is [ErrNoWebhooks] if there can be none; it never holds the secret.
func (a *API) RegisterWebhook(ctx context.Context, address string, events []string, secret string) (Webhook, error) {
	body, err := json.Marshal(map[string]any{"url": address, "events": events, "secret": secret})
	if err != nil {
		return Webhook{}, err
	}
	answer, _, err := a.do(ctx, http.MethodPost, webhooksPath, nil, body, maxDetail)
	if err != nil {
		if secret != "" && strings.Contains(err.Error(), secret) {
			err = &refusal{status: status(err), what: fmt.Sprintf("POST %s: %d, the answer repeats the secret", webhooksPath, status(err))}
		}
		return Webhook{}, noWebhooks(err)
	}
	text, err := object(answer)
	if err != nil { // it is registered all the same
		return Webhook{URL: address, Events: events}, nil
	}
	var around struct {
		Data maybe[webhook] `json:"data"`
	}
	var made webhook
	_ = json.Unmarshal(text, &made)
	if _ = json.Unmarshal(text, &around); made.ID == "" && around.Data.ok {
		made = around.Data.is
	}
	return made.public(), nil
}

// Webhooks lists what is registered. The error is [ErrNoWebhooks] if there can be none.
func (a *API) Webhooks(ctx context.Context) ([]Webhook, error) {
	all, err := list(ctx, a, webhooksPath, nil, func(w *webhook) string { return string(w.ID) })
	if err != nil {
		return nil, noWebhooks(err)
	}
	hooks := make([]Webhook, len(all))
	for i := range all {
		hooks[i] = all[i].is.public()
	}
	return hooks, nil
}

// RemoveWebhook ends a registration. The error is [relay.ErrGone] if there is none of that
// id, and [ErrNoWebhooks] if there can be none.
func (a *API) RemoveWebhook(ctx context.Context, id string) error {
	_, _, err := a.do(ctx, http.MethodDelete, webhooksPath+"/"+url.PathEscape(id), nil, nil, maxDetail)
	if status(err) != http.StatusNotFound {
		return noWebhooks(err)
	}
	if _, other := a.Webhooks(ctx); errors.Is(other, ErrNoWebhooks) {
		return other
	}
	return err
}

// A webhook is what the provider shows of one; it may show the secret, too.
type webhook struct {
	ID     word            `json:"id"`
	URL    word            `json:"url"`
	Events maybe[[]string] `json:"events"`
}

func (w *webhook) public() Webhook { return Webhook{string(w.ID), string(w.URL), w.Events.is} }

func noWebhooks(err error) error {
	switch status(err) {
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return fmt.Errorf("%w: %s", ErrNoWebhooks, err.Error())
	}
	return err
}
