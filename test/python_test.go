package test

import (
	"bufio"
	"os/exec"
	"strings"
	"testing"

	"github.com/berthdev/berth/test/testenv"
)

// A client of Python's standard library reads a whole turn from our stream
// with the Python SDK's list of event names.
func TestPythonReadsTheStream(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not here (apt-get install python3)")
	}
	w := testenv.Start(t, testenv.Options{})
	w.Worker("", "--sandbox", "process")
	session := w.Session(w.Agent())
	cmd := exec.CommandContext(t.Context(), python, "streamclient.py", w.BaseURL, session, w.APIKey)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var complaint strings.Builder
	cmd.Stderr = &complaint
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), "open text/event-stream") {
		t.Fatalf("no stream: %q %s", lines.Text(), complaint.String())
	}
	w.Send(session, testenv.Script(testenv.Say("I run it.", testenv.Bash("echo hi")), testenv.Say("done")))
	streamed := map[string]bool{}
	for lines.Scan() {
		streamed[lines.Text()] = true
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, complaint.String())
	}
	for _, e := range w.Ended(session) {
		kind, id := e["type"].(string), e["id"].(string)
		if kind != "session.usage" && !streamed[kind+" "+id] { // session.usage is newer than the list
			t.Errorf("%s %s is listed, and was not read from the stream", kind, id)
		}
	}
}
