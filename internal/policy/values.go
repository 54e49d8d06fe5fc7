package policy

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

func (v value) processors() (float64, error) {
	s, err := v.text("a number of processors, such as 1.5")
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || !(n >= 0.01 && n <= 4096) {
		return 0, v.bad("give a number from 0.01 to 4096, such as 1.5", "is %s", quote(s))
	}
	return n, nil
}

func (v value) count(least, most int) (int, error) {
	s, err := v.text("a whole number")
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < least || n > most {
		return 0, v.bad(fmt.Sprintf("give a whole number from %d to %d", least, most), "is %s", quote(s))
	}
	return n, nil
}

func (v value) duration(least, most time.Duration) (time.Duration, error) {
	s, err := v.text("a duration such as 90s or 1h30m")
	if err != nil {
		return 0, err
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, v.bad("write a number with its unit, such as 90s, 10m or 1h30m", "is %s, which is no duration", quote(s))
	}
	if d < least || d > most {
		return 0, v.bad(fmt.Sprintf("give one from %s to %s", least, most), "is %s", quote(s))
	}
	return d, nil
}

var (
	sizeForm = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)$`)
	units    = map[string]float64{
		"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
		"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
		"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40,
	}
)

func (v value) size(least, most int64) (int64, error) {
	s, err := v.text("a size such as 512MiB")
	if err != nil {
		return 0, err
	}
	m := sizeForm.FindStringSubmatch(s)
	if m == nil {
		return 0, v.bad("write a number with its unit, such as 512MiB or 2GB", "is %s, which is no size", quote(s))
	}
	unit, known := units[strings.ToLower(m[2])]
	if !known {
		return 0, v.bad("use KiB, MiB, GiB or TiB (1024 each), or kB, MB, GB or TB (1000 each)", "is %s, whose unit is unknown", quote(s))
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if n *= unit; err != nil || n < float64(least) || n > float64(most) {
		return 0, v.bad(fmt.Sprintf("give one from %s to %s; a number without a unit is bytes", bytes(least), bytes(most)), "is %s", quote(s))
	}
	return int64(n), nil
}

func bytes(n int64) string {
	for _, u := range []struct {
		name string
		size int64
	}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= u.size {
			return strconv.FormatInt(n/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

var variableForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)

func (v value) variable() (string, error) {
	s, err := v.text("a variable's name")
	if err == nil && !variableForm.MatchString(s) {
		return "", v.bad("use letters, digits and _", "is %s, which is no name of a variable", quote(s))
	}
	return s, err
}

func (v value) absolute(what string) (string, error) {
	s, err := v.text("the absolute path of " + what)
	if err == nil && (!filepath.IsAbs(s) || len(s) > 4096 || strings.ContainsFunc(s, unprintable)) {
		return "", v.bad("give an absolute path", "is %s", quote(s))
	}
	return filepath.Clean(s), err
}

func (v value) truth() (bool, error) {
	s, err := v.text("true or false")
	if err == nil && s != "true" && s != "false" {
		err = v.bad("give true or false", "is %s", quote(s))
	}
	return s == "true", err
}

func unprintable(r rune) bool { return r < ' ' || r == 0x7f }
