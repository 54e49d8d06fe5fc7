// Package config turns flags and environment variables into plain values.
// Every program setting is a field of one of the structs here; kong fills
// them, and nothing else in the program reads the environment.
//
// The structs follow the question "whose variable is it": Plane is the control
// plane's half, Engine and Remote are the worker's, Client belongs to the
// client verbs. A verb embeds the parts it needs, so that a variable one half
// owns is never looked at by the other: ANTHROPIC_BASE_URL, for one, is where a
// worker finds its control plane and never where a model is called.
package config

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// Version is set by the linker.
var Version = "dev"

// Prefix begins every secret that Berth itself makes.
const Prefix = "sk-berth-"

// Secret is a credential: it prints and logs as a placeholder. Reveal gives
// the value.
type Secret string

const hidden = "[hidden]"

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// GoString hides the value from %#v.
func (s Secret) GoString() string { return s.String() }

// LogValue hides the value from slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText hides the value from encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a value as it is given, less the blanks around it.
func (s *Secret) UnmarshalText(b []byte) error { *s = Secret(strings.TrimSpace(string(b))); return nil }

// Reveal is the secret itself.
func (s Secret) Reveal() string { return string(s) }

// Error is a setting that cannot be used. The program ends with status 2.
type Error struct{ Problem, Cure string }

func (e *Error) Error() string { return e.Problem + "; " + e.Cure }

func wrong(cure, problem string, args ...any) error {
	return &Error{Problem: fmt.Sprintf(problem, args...), Cure: cure}
}

// Vars are the defaults that depend on the machine, for ${name} in flag tags.
func Vars() map[string]string {
	return map[string]string{"data_dir": dataDir(), "state_dir": StateDir()}
}

func dataDir() string {
	if d := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "berth")
	}
	return filepath.Join(home(), ".local", "share", "berth")
}

// StateDir is where workers keep what they keep, unless told otherwise.
func StateDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/berth"
	}
	if d := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "berth")
	}
	return filepath.Join(home(), ".local", "state", "berth")
}

func home() string {
	if h, err := os.UserHomeDir(); err == nil {
		return h
	}
	return os.TempDir()
}

// own are the prefixes of variables that Berth reads.
var own = []string{"BERTH_", "ANTHROPIC_"}

// DropEmpty unsets variables of ours that are set to nothing, so that they
// mean the default. Call it before the flags are read.
func DropEmpty() {
	for _, kv := range os.Environ() {
		name, value, _ := strings.Cut(kv, "=")
		if value != "" {
			continue
		}
		for _, p := range own {
			if strings.HasPrefix(name, p) {
				os.Unsetenv(name)
			}
		}
	}
}

// secretVariables hold credentials.
var secretVariables = []string{
	"ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_ENVIRONMENT_KEY", "ANTHROPIC_WORK_SECRET",
	"ANTHROPIC_WEBHOOK_SIGNING_KEY", "ANTHROPIC_AWS_API_KEY", "BERTH_API_KEY", "BERTH_DATABASE",
	"OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
}

// SecretFlags are the worker's flags that hold credentials, and the variables
// that mean the same.
var SecretFlags = map[string]string{
	"--environment-key": "ANTHROPIC_ENVIRONMENT_KEY", "--work-secret": "ANTHROPIC_WORK_SECRET", "--signing-keys": "ANTHROPIC_WEBHOOK_SIGNING_KEY",
	"--aws-api-key": "ANTHROPIC_AWS_API_KEY", "--otlp-headers": "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
}

// Environ is the environment that this process was started with.
func Environ() []string { return os.Environ() }

// Scrub takes the credentials out of the process's environment, so that no
// child inherits one. Call it when the flags have been read.
func Scrub() {
	for _, name := range secretVariables {
		os.Unsetenv(name)
	}
}

// Take gives a variable that a policy names as a secret, and takes it out of
// the process's environment.
func Take(name string) (Secret, bool) {
	v, ok := os.LookupEnv(name)
	os.Unsetenv(name)
	return Secret(v), ok
}

// CrashAt is the label at which the program shall kill itself, for the crash
// tests; empty in every other run.
func CrashAt() string { return os.Getenv("BERTH_CRASH_AT") }

// ModelKeyInWorker says that a worker was started with a model provider's key
// in its environment, where it has no use and must not stay.
func ModelKeyInWorker() bool { return os.Getenv("ANTHROPIC_API_KEY") != "" }

// NoColor says that the user or the terminal asked for plain output.
func NoColor() bool { return os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" }

// GOGC says that the operator has set how often Go's runtime collects garbage.
func GOGC() bool { return os.Getenv("GOGC") != "" }
