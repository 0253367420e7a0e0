package hang

import "testing"

func waitForNobody() { <-make(chan int) }

func TestHangs(t *testing.T) {
	t.Log("on its way")
	waitForNobody()
}
