package cli

import (
	"encoding/csv"
	"errors"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// filledFlag is a flag that must not be given with nothing in it, nor with an
// entry of a list that is empty.
type filledFlag struct{ pflag.Value }

// Set implements pflag.Value.
func (f filledFlag) Set(text string) error {
	entries := []string{text}
	if f.Type() != "string" && text != "" {
		list, err := csv.NewReader(strings.NewReader(text)).Read()
		if err != nil {
			return f.Value.Set(text) // which says what is wrong with it
		}
		entries = list
	}
	for _, entry := range entries {
		if f.Type() == "stringToString" {
			if name, value, ok := strings.Cut(entry, "="); ok && (strings.TrimSpace(name) == "" || strings.TrimSpace(value) == "") {
				return errors.New("neither name nor value may be empty, as in NAME=VALUE")
			}
		}
		if strings.TrimSpace(entry) == "" {
			return errors.New("it is empty, as when a variable is not set: leave the flag out for none")
		}
	}
	return f.Value.Set(text)
}

// fill lets every flag of a command refuse to be empty.
func fill(cmd *cobra.Command) {
	wrap := func(flag *pflag.Flag) {
		switch flag.Value.Type() {
		case "stringSlice", "stringToString":
			flag.DefValue = "" // help knows the types of such flags, and not this one
			fallthrough
		case "string":
			flag.Value = filledFlag{flag.Value}
		}
	}
	cmd.PersistentFlags().VisitAll(wrap)
	cmd.LocalNonPersistentFlags().VisitAll(wrap)
	for _, sub := range cmd.Commands() {
		fill(sub)
	}
}
