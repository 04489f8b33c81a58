package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"together-relay/adapters/together"
	"together-relay/relay"
	"together-relay/schemas"
)

func newSchemas() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "schemas",
		Short: "Show the JSON Schemas of the event types, and check deliveries against them",
		Example: `  together-relay schemas ls
  together-relay schemas show batch.done
  together-relay schemas check delivery.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newSchemasLs(), newSchemasShow(), newSchemasCheck())
	return cmd
}

func newSchemasLs() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "ls",
		Short:   "List the types that have a schema",
		Example: "  together-relay schemas ls",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, typ := range schemas.Types() {
				text, err := schemas.Schema(typ)
				if err != nil {
					return err
				}
				var schema struct {
					Type        string   `json:"type"`
					Description string   `json:"description"`
					Required    []string `json:"required"`
				}
				if err := json.Unmarshal(text, &schema); err != nil {
					return err
				}
				schema.Type = typ
				if output == "json" {
					if err := writeJSON(cmd.OutOrStdout(), schema); err != nil {
						return err
					}
					continue
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%-25s%s\n", typ, strings.Join(schema.Required, ", "))
			}
			return nil
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func newSchemasShow() *cobra.Command {
	var example bool
	cmd := &cobra.Command{
		Use:   "show TYPE",
		Short: "Print the schema of a type's data, or an example of its delivery",
		Example: `  together-relay schemas show batch.done
  together-relay schemas show batch.done --example`,
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return schemas.Types(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			read := schemas.Schema
			if example {
				read = schemas.Example
			}
			text, err := read(args[0])
			if err != nil {
				return usagef("type %q has no schema; there is %s", args[0], strings.Join(schemas.Types(), ", "))
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	cmd.Flags().BoolVar(&example, "example", false, "a good delivery instead of the schema")
	return cmd
}

func newSchemasCheck() *cobra.Command {
	var typ string
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Say what the relay would make of a delivery",
		Long: `Reads a delivery, {"id", "type", "data", …}, as the relay does, and checks its data. With
--type the file is the data alone. FILE may be - for standard input. The exit code is 1 if it
would become a dead letter, or breaks the schema of what the relay itself publishes.`,
		Example: `  together-relay schemas check delivery.json
  together-relay schemas show batch.done --example | together-relay schemas check -
  together-relay schemas check data.json --type batch.done`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := readFileOr(args[0], cmd.InOrStdin())
			if err != nil {
				return usagef("%w", err)
			}
			ev, err := check(typ, text)
			bad, ok := errors.AsType[*relay.Unusable](err)
			if ok && bad.Reason == relay.ReasonSchema && !schemas.Binds(ev.Type) {
				return fmt.Errorf("%s breaks the schema of %s: %s; from a sender the relay would take it as it is", args[0], ev.Type, bad.Detail)
			}
			if ok {
				return fmt.Errorf("%s would be a dead letter, %s: %s", args[0], bad.Reason, bad.Detail)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is a good %s\n", args[0], ev.Type)
			return err
		},
	}
	cmd.Flags().StringVar(&typ, "type", "", "`type` of bare data")
	return cmd
}

func readFileOr(path string, stdin io.Reader) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(path)
}

// check opens a delivery with the relay's own parts: a source with a secret of the moment.
func check(typ string, text []byte) (relay.Event, error) {
	set, err := schemas.Load()
	if err != nil {
		return relay.Event{}, err
	}
	if typ != "" {
		if !set.Has(typ) {
			return relay.Event{}, usagef("type %q has no schema; there is %s", typ, strings.Join(schemas.Types(), ", "))
		}
		text = fmt.Appendf(nil, `{"id":"check","type":%q,"data":%s}`, typ, text)
	}
	ev, err := together.Read(text)
	if err != nil {
		return ev, err
	}
	return ev, set.Check(ev.Type, ev.CloudEvent.Data())
}
