package agentwire

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var posture = Posture{
	UIDs: [4]uint32{1, 2, 3, 4}, GIDs: [4]uint32{5, 6, 7, 1<<32 - 1}, Groups: []uint32{8}, Inheritable: 1, Permitted: 2, Effective: 4,
	Bounding: 1<<64 - 1, Ambient: 8, NoNewPrivs: true, Seccomp: 2, Filters: 1, Namespaces: []Namespace{{"net", 4026531840}},
	Mounts: []Mount{{"/", "ro,nosuid", "tmpfs"}}, Inherited: []string{"socket:[1]"}, Rlimits: []Rlimit{{7, 1<<64 - 1}},
	Interfaces: []string{"lo"}, Processes: 2, Hostname: "sandbox", Seen: []string{"/x"}, Writable: []string{"/y"}, Tries: []Try{{"mount", 1}}, Cut: true,
}

// A posture is bounded: its list lengths promise nothing that its bytes do not
// hold.
func TestPostureIsBounded(t *testing.T) {
	if _, err := DecodePosture(make([]byte, MaxPosture+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	b := posture.Encode()
	for i := range b {
		if _, err := DecodePosture(b[:i]); err == nil {
			t.Errorf("cut at %d it decodes", i)
		}
	}
	if _, err := DecodePosture(append(b, 0)); !errors.Is(err, ErrBad) {
		t.Errorf("with more after it: %v", err)
	}
}

func TestMessagesSurviveTheTrip(t *testing.T) {
	boot := Boot{
		Steps: []Step{{Kind: StepBind, Source: "/usr", Target: "/usr", ReadOnly: true, Data: []byte{}, FD: 7},
			{Kind: StepFile, Target: "/etc/passwd", Data: []byte("x\x00y"), Mode: 0o644, Optional: true}},
		Seal: true, Bash: "/bin/bash", Workdir: "/workspace", Env: []string{"A=b", "C="},
		RunDir: "/run/berth", OutputBytes: 1 << 20, OrphanTTL: 90 * time.Second, Processes: 7, OpenFiles: 8, Places: []string{"/workspace", "/tmp"}, Renews: true, Fault: "skip filter",
	}
	if got, err := DecodeBoot(boot.Encode()); err != nil || !cmp.Equal(got, boot) {
		t.Errorf("boot: %v %s", err, cmp.Diff(boot, got))
	}
	run := Run{ID: "sevt_1", Text: "echo\x01\xff\n", Limit: 1500 * time.Millisecond}
	if got, err := DecodeRun(run.Encode()); err != nil || got != run {
		t.Errorf("run: %v %+v", err, got)
	}
	run.Stream = true
	if got, err := DecodeRun(run.Encode()); err != nil || got != run {
		t.Errorf("run: %v %+v", err, got)
	}
	if got, err := DecodePosture(posture.Encode()); err != nil || !cmp.Equal(got, posture) {
		t.Errorf("posture: %v %s", err, cmp.Diff(posture, got))
	}
	spawn := Spawn{Path: "/proc/self/fd/4", Args: []string{"a", "0"}, Env: []string{"A=b"}, Flags: 1 << 28, UID: [2]uint32{1000, 1<<32 - 1}, GID: [2]uint32{1, 2}, Groups: true, Ambient: []uint32{21}, Files: 9, Cgroup: true, Legacy: []string{"/x"}}
	if got, err := DecodeSpawn(spawn.Encode()); err != nil || !cmp.Equal(got, spawn) {
		t.Errorf("spawn: %v %s", err, cmp.Diff(spawn, got))
	}
	if got, err := DecodeSpawned(Spawned{7, 1}.Encode()); err != nil || got != (Spawned{7, 1}) {
		t.Errorf("spawned: %v %+v", err, got)
	}
	probe := Probe{Hidden: []string{"/a", ""}, Fixed: []string{"/usr"}}
	if got, err := DecodeProbe(probe.Encode()); err != nil || !cmp.Equal(got, probe) {
		t.Errorf("probe: %v %s", err, cmp.Diff(probe, got))
	}
	out := Output{ID: "a", Data: []byte("\x00")}
	if got, err := DecodeOutput(out.Encode()); err != nil || !cmp.Equal(got, out) {
		t.Errorf("output: %v %+v", err, got)
	}
	req := FileRequest{ID: 1 << 40, Op: FileRename, Path: "/a/\xff", To: "/b", Offset: 1 << 50, Length: 0o644, Data: []byte("x\x00")}
	if got, err := DecodeFileRequest(req.Encode()); err != nil || !cmp.Equal(got, req) {
		t.Errorf("file request: %v %s", err, cmp.Diff(req, got))
	}
	rep := FileReply{ID: 3, Errno: FileMoved, Info: FileInfo{Mode: 0o100644, Size: 5, Time: time.Unix(1e9, 0), Inode: 1<<64 - 1, Links: 2}, Data: []byte("d"), Entries: []FileEntry{{"a", 4}}, More: true}
	if got, err := DecodeFileReply(rep.Encode()); err != nil || !cmp.Equal(got, rep) {
		t.Errorf("file reply: %v %s", err, cmp.Diff(rep, got))
	}
	if _, err := DecodeFileRequest(FileRequest{Op: FileRead, Length: MaxChunk + 1}.Encode()); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a read of too much: %v", err)
	}
	start := Start{Num: 1 << 60, Args: []string{"a", ""}, Env: []string{"A=b"}}
	if got, err := DecodeStart(start.Encode()); err != nil || !cmp.Equal(got, start) {
		t.Errorf("start: %v %+v", err, got)
	}
	input := Input{Num: 2, Data: []byte("x\x00")}
	if got, err := DecodeInput(input.Encode()); err != nil || !cmp.Equal(got, input) {
		t.Errorf("input: %v %+v", err, got)
	}
	grant := Grant{Num: 2, Bytes: 1<<31 - 1}
	if got, err := DecodeGrant(grant.Encode()); err != nil || got != grant {
		t.Errorf("grant: %v %+v", err, got)
	}
	data := Data{Num: 2, Data: []byte{0}}
	if got, err := DecodeData(data.Encode()); err != nil || !cmp.Equal(got, data) {
		t.Errorf("data: %v %+v", err, got)
	}
	ended := Ended{Num: 2, Code: -1, Reason: "why", Errors: []byte("e")}
	if got, err := DecodeEnded(ended.Encode()); err != nil || !cmp.Equal(got, ended) {
		t.Errorf("ended: %v %+v", err, got)
	}
	if got, err := DecodeNum(EncodeNum(7)); err != nil || got != 7 {
		t.Errorf("number: %v %d", err, got)
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
	add(KindFile, FileRequest{ID: 1, Op: FileRead, Path: "/tmp/x", Length: 9}.Encode())
	add(KindFileReply, FileReply{ID: 1, Data: []byte("y"), Entries: []FileEntry{{"z", 8}}}.Encode())
	add(KindRefused, Refused{"x", "busy"}.Encode())
	add(KindReady, EncodeReady(1))
	add(KindProbe, Probe{Hidden: []string{"/x"}}.Encode())
	add(KindPosture, posture.Encode())
	add(KindOutput, Output{ID: "x", Data: []byte("y")}.Encode())
	add(KindStart, Start{Num: 1, Args: []string{"a"}, Env: []string{"A=b"}}.Encode())
	add(KindData, Data{Num: 1, Data: []byte("y")}.Encode())
	add(KindEnded, Ended{Num: 1, Code: 3, Errors: []byte("y")}.Encode())
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
		if m, err := DecodePosture(fr.Body); err == nil {
			if again, err := DecodePosture(m.Encode()); err != nil || !cmp.Equal(m, again) {
				t.Fatalf("posture: %v", err)
			}
		}
		if m, err := DecodeProbe(fr.Body); err == nil {
			if again, err := DecodeProbe(m.Encode()); err != nil || !cmp.Equal(m, again) {
				t.Fatalf("probe: %v", err)
			}
		}
		_, _ = DecodeOutput(fr.Body)
		if m, err := DecodeFileRequest(fr.Body); err == nil {
			if again, err := DecodeFileRequest(m.Encode()); err != nil || !cmp.Equal(m, again) {
				t.Fatalf("file request: %v", err)
			}
		}
		if m, err := DecodeFileReply(fr.Body); err == nil {
			if again, err := DecodeFileReply(m.Encode()); err != nil || !cmp.Equal(m, again) {
				t.Fatalf("file reply: %v", err)
			}
		}
		if m, err := DecodeStart(fr.Body); err == nil {
			if again, err := DecodeStart(m.Encode()); err != nil || !cmp.Equal(m, again) {
				t.Fatalf("start: %v", err)
			}
		}
		if m, err := DecodeEnded(fr.Body); err == nil {
			if again, err := DecodeEnded(m.Encode()); err != nil || !cmp.Equal(m, again) {
				t.Fatalf("ended: %v", err)
			}
		}
		_, _ = DecodeInput(fr.Body)
		_, _ = DecodeGrant(fr.Body)
		_, _ = DecodeData(fr.Body)
		_, _ = DecodeNum(fr.Body)
		_, _ = DecodeRefused(fr.Body)
		_, _ = DecodeText(fr.Body)
		_, _ = DecodeReady(fr.Body)
	})
}
