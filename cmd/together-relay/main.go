// Command together-relay is the event bridge between Together AI and the teams of a
// company: signed webhooks in, CloudEvents on NATS JetStream out.
//
// This package joins the parts and holds the verbs. It is the only place that reads
// flags, files and the environment.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"together-relay/adapters/natsd"
)

// The exit codes of the command line.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2 // or configuration
)

func main() {
	// The first signal asks for an orderly end; after it the default is back, so a second
	// one ends the process at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main with everything from outside handed in. It returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	if said, ok := errors.AsType[silent](err); ok {
		return int(said)
	}
	fmt.Fprintf(stderr, "together-relay: %s\n", strings.ReplaceAll(err.Error(), "\n", "\n  "))
	if errors.Is(err, errUsage) || errors.Is(err, natsd.ErrConfig) {
		return exitUsage
	}
	return exitFailed
}

// errUsage marks errors that another command line or configuration would mend.
var errUsage = errors.New("")

func usagef(format string, args ...any) error {
	return fmt.Errorf("%w%w", errUsage, fmt.Errorf(format, args...))
}

// A silent error has said what there was to say; it is an exit code.
type silent int

func (silent) Error() string { return "" }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "together-relay",
		Short: "What happens at Together AI in, CloudEvents on NATS JetStream out, once",
		Long: `together-relay watches the Together API and takes signed webhooks, turns each fact into a CloudEvent
and stores it on NATS JetStream, once. Any number of teams read from there, in any language.`,
		Example: `  together-relay serve --dev                    # everything in one process, on this machine
  together-relay serve --dev --simulate         # the same, with a made-up Together that lives
  together-relay trigger fine_tune.completed    # send it a signed sample
  together-relay events                         # see what is stored`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w; see together-relay %s --help", err, cmd.Name())
	})
	root.AddCommand(newServe(), newTrigger(), newBench(), newEvents(), newWait(), newWatch(), newReconcile(), newReplay(), newWhere(), newDLQ(), newTeams(), newWebhooks(), newSchemas(), newDoctor(), newConfig(), newHealth(), newTogetherSim(), newVersion())
	root.SetHelpTemplate(help)
	usageErrors(root)
	return root
}

// help begins with what most readers came for.
const help = `{{with .Example}}{{.}}

{{end}}{{with or .Long .Short}}{{. | trimTrailingWhitespaces}}

{{end}}Usage:
  {{.UseLine}}{{if .HasAvailableSubCommands}}
  {{.CommandPath}} [command]

Commands:{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}{{if .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableSubCommands}}

See {{.CommandPath}} [command] --help for more.{{end}}
`

// usageErrors makes wrong arguments of every verb a usage error.
func usageErrors(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usagef("%w; see %s --help", err, cmd.CommandPath())
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		usageErrors(sub)
	}
}
