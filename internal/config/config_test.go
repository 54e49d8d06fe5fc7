package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
)

func TestSecretsDoNotPrint(t *testing.T) {
	const value = "sk-ant-very-secret"
	p := Plane{Provider: Provider{ModelKey: value}, Store: Store{Database: "postgres://u:" + value + "@h/d"}}
	var logged bytes.Buffer
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("starting", "key", p.ModelKey, "database", p.Database)
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{
		"%v": fmt.Sprintf("%v", p), "%+v": fmt.Sprintf("%+v", p), "%#v": fmt.Sprintf("%#v", p), "%s": fmt.Sprintf("key %s", p.ModelKey),
		"slog": logged.String(), "json": string(raw),
	} {
		if strings.Contains(text, value) {
			t.Errorf("%s shows the secret: %s", what, text)
		}
	}
	if p.ModelKey.Reveal() != value || p.URL() != "postgres://u:"+value+"@h/d" {
		t.Error("the secret itself is lost")
	}
}

func TestSettingsThatCannotBe(t *testing.T) {
	for name, err := range map[string]error{
		"a key of ours as the model's": Provider{ModelKey: "sk-berth-api01-x"}.Validate(),
		"a model URL that is none":     Provider{ModelBaseURL: "localhost:11434"}.Validate(),
		"a model URL with a password":  Provider{ModelBaseURL: "http://u:p@h"}.Validate(),
		"a public URL with a query":    Plane{PublicURL: "http://h?x=1"}.Validate(),
		"no environment to poll":       Remote{EnvironmentKey: "k"}.NeedQueue(Login{}),
		"no key to poll with":          Remote{EnvironmentID: "env_1"}.NeedQueue(Login{}),
		"no session to run":            Item{WorkID: "w", WorkSecret: "s"}.NeedItem(Remote{EnvironmentID: "e"}, Login{}),
		"no credential to run with":    Item{WorkID: "w", SessionID: "s"}.NeedItem(Remote{EnvironmentID: "e"}, Login{}),
		"no workspace on AWS":          Remote{EnvironmentID: "e"}.NeedQueue(Login{Auth: "aws"}),
		"no console key":               Remote{EnvironmentID: "e"}.NeedQueue(Login{Auth: "api-key", AWSWorkspace: "w"}),
		"a negative limit":             Engine{MaxSessions: -1}.Validate(),
		"no API key":                   Client{}.NeedKey(),
	} {
		ce, ok := errors.AsType[*Error](err)
		if !ok {
			t.Errorf("%s: got %v, want an *Error", name, err)
			continue
		}
		if ce.Problem == "" || ce.Cure == "" || strings.Contains(ce.Error(), "\n") {
			t.Errorf("%s: %q does not say what happened and what to do on one line", name, ce)
		}
	}
	for name, err := range map[string]error{
		"a provider":        Provider{ModelKey: "sk-ant-x", ModelBaseURL: "http://127.0.0.1:11434/v1"}.Validate(),
		"AWS without a key": Remote{EnvironmentID: "e"}.NeedQueue(Login{Auth: "aws", AWSWorkspace: "w"}),
		"an item by secret": Item{WorkID: "w", SessionID: "s", WorkSecret: "x"}.NeedItem(Remote{EnvironmentID: "e"}, Login{}),
		"an item by key":    Item{WorkID: "w", SessionID: "s"}.NeedItem(Remote{EnvironmentID: "e", EnvironmentKey: "k"}, Login{}),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVariablesOfOurs(t *testing.T) {
	t.Setenv("BERTH_DATA_DIR", "")
	t.Setenv("ANTHROPIC_BASE_URL", "")
	t.Setenv("SOMEBODY_ELSES", "")
	for _, name := range secretVariables {
		t.Setenv(name, "secret")
	}
	DropEmpty()
	Scrub()
	for _, name := range append([]string{"BERTH_DATA_DIR", "ANTHROPIC_BASE_URL"}, secretVariables...) {
		if _, there := os.LookupEnv(name); there {
			t.Errorf("%s is still there", name)
		}
	}
	if _, there := os.LookupEnv("SOMEBODY_ELSES"); !there {
		t.Error("a variable of somebody else's is gone")
	}
}
