package child

import (
	"bytes"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestCollectorKeepsBothEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keep := rapid.IntRange(2, 60).Draw(t, "keep")
		c := newCollector(keep)
		var all []byte
		for _, p := range rapid.SliceOf(rapid.SliceOfN(rapid.Byte(), 0, 50)).Draw(t, "writes") {
			c.write(p)
			all = append(all, p...)
		}
		head, dropped, tail := c.result()
		h := min(len(all), keep/2)
		l := min(len(all)-h, keep/2)
		if !bytes.Equal(head, all[:h]) || !bytes.Equal(tail, all[len(all)-l:]) || dropped != int64(len(all)-h-l) {
			t.Fatalf("of %q kept %q, %d, %q", all, head, dropped, tail)
		}
	})
}

func TestSurelyWhole(t *testing.T) {
	for _, text := range []string{
		"", "true", "echo a b", "ls -la | wc -l", "echo 'a b' \"c $d\" e\\ f", "cd /tmp && ls; pwd\n", "sleep 1 &", "a=1 b=2 cmd >out 2>&1",
		"echo \"a\nb\" # it's a comment", "a &&\nb", "python3 -c 'print(1)'", "echo done'x'", "[ -f x ] && echo y",
	} {
		if !surelyWhole(text) {
			t.Errorf("%q needs bash to say", text)
		}
	}
	for _, text := range []string{
		"echo 'a", `echo "a`, "echo a \\", "a |", "a &&", "a ||", "a |&", "a | # c", "if x", "while y", "f() {", "a=(1", "echo $(ls", "echo `ls", "cat <<E", "echo \"$(\"",
		"! ", "time", "case x in", "[[ a", "a[1", "echo $'a", "{ a", "a && # x",
	} {
		if surelyWhole(text) {
			t.Errorf("%q counts as whole", text)
		}
	}
}

// TestSurelyWholeAgreesWithBash makes texts of what matters to a shell's
// parser: bash never wants more of one that counts as whole.
func TestSurelyWholeAgreesWithBash(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("bash is missing")
	}
	parts := []string{"a", "echo", " ", " ", "\n", "'", "\"", "\\", "#", ";", "|", "&", "<", ">", "$", "if", "fi", "do", "!", "time", "[[", "2", "=", "x y", "é", "\t", "&&", "||", "case", "in"}
	r := rand.New(rand.NewPCG(1, 2))
	whole := 0
	for range 60000 {
		var b strings.Builder
		for range 1 + r.IntN(9) {
			b.WriteString(parts[r.IntN(len(parts))])
		}
		text := b.String()
		if !surelyWhole(text) {
			continue
		}
		if whole++; whole > 400 {
			break
		}
		cmd := exec.Command(bash, "--norc", "-n", "-c", text)
		cmd.Env = []string{"LC_ALL=C"}
		out, _ := cmd.CombinedOutput()
		if why := unfinished(out); why != "" {
			t.Errorf("%q counts as whole; bash: %s", text, why)
		}
	}
	if whole < 200 {
		t.Errorf("only %d texts were whole", whole)
	}
}

// TestEndedProgramKeepsItsStatus: one that has ended and is still read from is
// not taken for what ends later.
func TestEndedProgramKeepsItsStatus(t *testing.T) {
	running := exec.Command("sleep", "100")
	if err := running.Start(); err != nil {
		t.Fatal(err)
	}
	defer running.Wait()
	defer running.Process.Kill()
	p := &program{code: 3}
	a := &agent{programs: []*program{p}}
	if a.alone() || p.code != 3 {
		t.Errorf("its status is %d", p.code)
	}
}
