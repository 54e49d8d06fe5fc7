package test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthdev/berth/test/testenv"
)

// typescript installs the official TypeScript SDK and Node 22 from npm once
// for this machine and gives the folder that holds them.
func typescript(t *testing.T) string {
	t.Helper()
	npm, err := exec.LookPath("npm")
	if err != nil {
		t.Skip("npm is not here (apt-get install npm)")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	dir := filepath.Join(cache, "berth-test", "ts-sdk-1.12.0")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"package.json", "client.mjs"} {
		text, err := os.ReadFile(filepath.Join("ts", name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), text, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "node", "bin", "node")); err == nil {
		return dir
	}
	install := exec.Command(npm, "install", "--no-audit", "--no-fund", "--loglevel=error")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		t.Skipf("npm install failed: %v: %s", err, strings.TrimSpace(string(out)))
	}
	return dir
}

// The official TypeScript SDK makes, sends, streams and lists, and its worker
// serves our queue.
func TestOfficialTypeScriptSDK(t *testing.T) {
	dir := typescript(t)
	w := testenv.Start(t, testenv.Options{})
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "node_modules", "node", "bin", "node"), "client.mjs",
		w.BaseURL, w.APIKey, w.EnvironmentID, w.EnvKey, t.TempDir())
	cmd.Dir = dir
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, complaint.String())
	}
	var got struct {
		Missing []string
		Last    string
		Stats   string
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v in %q\n%s", err, out, complaint.String())
	}
	if len(got.Missing) > 0 || got.Last != "it said from typescript" || got.Stats != "work_queue_stats" {
		t.Errorf("%+v\n%s", got, complaint.String())
	}
}
