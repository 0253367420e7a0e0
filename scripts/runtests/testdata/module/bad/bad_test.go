package bad

import "testing"

func TestFails(t *testing.T) {
	t.Run("fine", func(t *testing.T) {})
	t.Run("not", func(t *testing.T) { t.Error("seven is not eight") })
}

func TestFailsBeside(t *testing.T) {
	t.Run("fine", func(t *testing.T) {})
	t.Error("its subtests are well")
}

func TestPasses(t *testing.T) {}
