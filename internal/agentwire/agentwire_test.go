package agentwire

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestMessagesSurviveTheTrip(t *testing.T) {
	boot := Boot{
		Steps: []Step{{Kind: StepBind, Source: "/usr", Target: "/usr", ReadOnly: true, Data: []byte{}, FD: 7},
			{Kind: StepFile, Target: "/etc/passwd", Data: []byte("x\x00y"), Mode: 0o644, Optional: true}},
		Seal: true, Bash: "/bin/bash", Workdir: "/workspace", Env: []string{"A=b", "C="},
		RunDir: "/run/berth", OutputBytes: 1 << 20, OrphanTTL: 90 * time.Second,
	}
	if got, err := DecodeBoot(boot.Encode()); err != nil || !cmp.Equal(got, boot) {
		t.Errorf("boot: %v %s", err, cmp.Diff(boot, got))
	}
	run := Run{ID: "sevt_1", Text: "echo\x01\xff\n", Limit: 1500 * time.Millisecond}
	if got, err := DecodeRun(run.Encode()); err != nil || got != run {
		t.Errorf("run: %v %+v", err, got)
	}
	res := Result{ID: "a", End: "exited", ExitCode: -1, Head: []byte("h\x00"), Dropped: 1 << 40, Tail: []byte("t"), Elapsed: 3 * time.Microsecond, OOM: true}
	if got, err := DecodeResult(res.Encode()); err != nil || !cmp.Equal(got, res) {
		t.Errorf("result: %v %s", err, cmp.Diff(res, got))
	}
}

func TestReadRefusesWhatIsNoFrame(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		want error
	}{
		"empty":     {"", io.EOF},
		"short":     {"\x00\x00", io.ErrUnexpectedEOF},
		"version":   {"\x00\x00\x00\x02\x09\x01", ErrVersion},
		"too large": {"\xff\xff\xff\xff\x01\x01", ErrTooLarge},
		"too small": {"\x00\x00\x00\x01\x01\x01", ErrBad},
		"cut":       {"\x00\x00\x00\x08\x01\x01abc", io.ErrUnexpectedEOF},
	} {
		if _, err := Read(bytes.NewReader([]byte(c.in))); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := Append(nil, KindRun, make([]byte, MaxFrame)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Append: %v", err)
	}
}

// FuzzFrames feeds a stream to both readers: they agree, no decoder panics or
// takes memory that the input does not pay for, and what decodes encodes back
// to a message that decodes to the same.
func FuzzFrames(f *testing.F) {
	add := func(k Kind, body []byte) {
		b, _ := Append(nil, k, body)
		f.Add(b)
	}
	add(KindBoot, Boot{Steps: []Step{{Kind: StepDir, Target: "/a"}}, Env: []string{"A=1"}}.Encode())
	add(KindRun, Run{ID: "x", Text: "true"}.Encode())
	add(KindResult, Result{ID: "x", End: "exited", Head: []byte("y")}.Encode())
	add(KindRefused, Refused{"x", "busy"}.Encode())
	add(KindReady, EncodeReady(1))
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, n, errNext := Next(b)
		got, errRead := Read(bytes.NewReader(b))
		if n > 0 && (errRead != nil || got.Kind != fr.Kind || !bytes.Equal(got.Body, fr.Body)) {
			t.Fatalf("Next has a frame, Read says %v", errRead)
		}
		if n == 0 && errNext == nil && errRead == nil {
			t.Fatal("Read has a frame that Next has not")
		}
		if n == 0 {
			return
		}
		if m, err := DecodeBoot(fr.Body); err == nil {
			again, err := DecodeBoot(m.Encode())
			if err != nil || !cmp.Equal(m, again) {
				t.Fatalf("boot: %v %s", err, cmp.Diff(m, again))
			}
		}
		if m, err := DecodeRun(fr.Body); err == nil {
			if again, err := DecodeRun(m.Encode()); err != nil || again != m {
				t.Fatalf("run: %v", err)
			}
		}
		if m, err := DecodeResult(fr.Body); err == nil {
			if again, err := DecodeResult(m.Encode()); err != nil || !cmp.Equal(m, again) {
				t.Fatalf("result: %v", err)
			}
		}
		_, _ = DecodeRefused(fr.Body)
		_, _ = DecodeText(fr.Body)
		_, _ = DecodeReady(fr.Body)
	})
}
