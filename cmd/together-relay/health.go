package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"
)

func newHealth() *cobra.Command {
	var url string
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask the running relay whether it could store an event now",
		Long: `Asks /readyz of the relay that listens here, for container health checks: no shell or curl
is needed. The exit code is 0 if it is ready.`,
		Example: "  together-relay health",
		Args:    cobra.NoArgs,
	}
	s := newSettings(cmd.Flags(), forAll)
	cmd.Flags().StringVar(&url, "url", "", "`URL` of the relay; by default that of the running one")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := s.asClient(); err != nil {
			return err
		}
		if url == "" {
			var err error
			if url, err = s.url(); err != nil {
				return err
			}
		}
		req, err := http.NewRequestWithContext(cmd.Context(), http.MethodGet, strings.TrimSuffix(url, "/")+"/readyz", nil)
		if err != nil {
			return usagef("%w", err)
		}
		resp, err := client.Do(req)
		if err != nil {
			return fmt.Errorf("%w; is it running?", err)
		}
		defer closeQuietly(resp.Body)
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("not ready: %s", strings.TrimSpace(string(text)))
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), "ready")
		return err
	}
	return cmd
}
