package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"together-relay/adapters/together"
	"together-relay/relay"
)

// webhookEvents are what a registration asks for unless it is told otherwise.
const webhookEvents = "fine_tune.completed,fine_tune.failed,fine_tune.checkpoint,model.deprecated,batch.done"

func newWebhooks() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "webhooks",
		Short: "Register webhooks at Together, if it has them",
		Long: `Speaks to {base}/v1/webhooks of the Together API. Together's documentation knows no such call; where
the API does not have it, these verbs say so, and TOGETHER_API_KEY on the relay brings the same
events by watching.`,
		Example: `  together-relay webhooks register --url https://relay.example.com/webhooks/together
  together-relay webhooks ls
  together-relay webhooks rm wh_1`,
	}
	cmd.AddCommand(newWebhooksRegister(), newWebhooksList(), newWebhooksRemove())
	return cmd
}

func newWebhooksRegister() *cobra.Command {
	var address, events, output string
	cmd := &cobra.Command{
		Use:   "register",
		Short: "Ask Together to send events to the relay",
		Long: `Registers the URL with the first secret of the source together, so that the relay takes what
is sent. The secret is TOGETHER_WEBHOOK_SECRET or TOGETHER_WEBHOOK_SECRET_FILE.`,
		Example: "  together-relay webhooks register --url https://relay.example.com/webhooks/together --events batch.done,fine_tune.completed",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().StringVar(&address, "url", "", "`URL` at which Together reaches the relay")
	cmd.Flags().StringVar(&events, "events", webhookEvents, "event `types`, separated by commas")
	withAPI(cmd, &output, func(s *settings, api *together.API, _ []string, w io.Writer) error {
		u, err := url.Parse(address)
		if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			return usagef("--url is %q; write the whole address, such as https://relay.example.com/webhooks/together", address)
		}
		secrets, err := s.secretsOf()
		if err != nil {
			return err
		}
		if len(secrets[defaultSource]) == 0 {
			return usagef("no secret: set TOGETHER_WEBHOOK_SECRET or TOGETHER_WEBHOOK_SECRET_FILE, as for the relay")
		}
		types := strings.FieldsFunc(events, func(r rune) bool { return r == ',' || r == ' ' })
		for _, typ := range types {
			if err := together.CheckType(typ); err != nil {
				return usagef("--events: %w", err)
			}
		}
		made, err := api.RegisterWebhook(cmd.Context(), address, types, string(secrets[defaultSource][0]))
		if err != nil {
			return err
		}
		return printWebhook(w, output, made)
	})
	return cmd
}

func newWebhooksList() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "ls",
		Short:   "List what is registered",
		Example: "  together-relay webhooks ls -o json",
		Args:    cobra.NoArgs,
	}
	withAPI(cmd, &output, func(_ *settings, api *together.API, _ []string, w io.Writer) error {
		hooks, err := api.Webhooks(cmd.Context())
		for _, hook := range hooks {
			if err := printWebhook(w, output, hook); err != nil {
				return err
			}
		}
		return err
	})
	return cmd
}

func newWebhooksRemove() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "rm ID",
		Short:   "End a registration",
		Example: "  together-relay webhooks rm wh_1",
		Args:    cobra.ExactArgs(1),
	}
	withAPI(cmd, nil, func(_ *settings, api *together.API, args []string, w io.Writer) error {
		if err := api.RemoveWebhook(cmd.Context(), args[0]); err != nil {
			return err
		}
		_, err := fmt.Fprintf(w, "%s\tremoved\n", printable(args[0]))
		return err
	})
	return cmd
}

// withAPI runs a verb that speaks to the Together API.
func withAPI(cmd *cobra.Command, output *string, do func(*settings, *together.API, []string, io.Writer) error) {
	s := newSettings(cmd.Flags(), forAll|forAPI)
	if output != nil {
		outputFlag(cmd, output)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := s.asClient(); err != nil {
			return err
		}
		api, err := s.openAPI(nil)
		if err != nil {
			return err
		}
		if api == nil {
			return errNoKey()
		}
		defer api.Close()
		return explainAPI(do(s, api, args, cmd.OutOrStdout()))
	}
}

func errNoKey() error {
	return usagef("no key: set TOGETHER_API_KEY or TOGETHER_API_KEY_FILE; for serve --simulate, paste the export line that it prints")
}

// explainAPI says what to do about an error of the API.
func explainAPI(err error) error {
	switch {
	case errors.Is(err, together.ErrNoWebhooks):
		return fmt.Errorf("no webhooks at Together (%w); with TOGETHER_API_KEY the relay brings the same events by watching", err)
	case errors.Is(err, relay.ErrKeyRefused):
		return fmt.Errorf("%w; look at TOGETHER_API_KEY", err)
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted")
	}
	return err
}

func printWebhook(w io.Writer, output string, hook together.Webhook) error {
	if output == "json" {
		return writeJSON(w, hook)
	}
	_, err := fmt.Fprintf(w, "%s\t%s\t%s\n", printable(orDash(hook.ID)), printable(hook.URL), printable(strings.Join(hook.Events, ",")))
	return err
}
