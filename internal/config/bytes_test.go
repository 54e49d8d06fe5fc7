package config

import "testing"

func TestBytes(t *testing.T) {
	for text, want := range map[string]Bytes{"0": 0, "17": 17, "17B": 17, "2kB": 2000, "1.5 GiB": 3 << 29, "512MiB": 512 << 20, "3TB": 3e12} {
		var b Bytes
		if err := b.UnmarshalText([]byte(text)); err != nil || b != want {
			t.Errorf("%q is %d, %v", text, b, err)
		}
		again, _ := b.MarshalText()
		var back Bytes
		if err := back.UnmarshalText(again); err != nil || back != b {
			t.Errorf("%q was written as %q", text, again)
		}
	}
	for _, text := range []string{"", "GiB", "-1", "1e30TB", "NaN", "ten", "1 parsec"} {
		if err := new(Bytes).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("took %q", text)
		}
	}
}
