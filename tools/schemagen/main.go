// schemagen writes what Kijabi knows about the built-in API kinds, taken from the upstream Go modules:
//
//	schemagen schema OUT                    the schema table (machinery/data/schema.txt)
//	schemagen catalogue DISCOVERY OUT       the resource catalogue, from a discovery dump (api/data/catalogue.txt)
//	schemagen columns OUT                   the columns that kubectl shows (api/data/columns.txt)
//	schemagen golden FIXTURES OUT           golden vectors of upstream's defaulting, validation and printing
//
// The output is facts only: names, numbers, flags.
package main

import (
	"bufio"
	"fmt"
	"os"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "schemagen:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "schema":
		return write(args[1], writeSchema)
	case len(args) == 2 && args[0] == "columns":
		return write(args[1], writeColumns)
	case len(args) == 3 && args[0] == "catalogue":
		return write(args[2], func(out *bufio.Writer) error { return writeCatalogue(args[1], out) })
	case len(args) == 3 && args[0] == "golden":
		return writeGolden(args[1], args[2])
	}
	return fmt.Errorf("usage: schemagen schema OUT | columns OUT | catalogue DISCOVERY OUT | golden FIXTURES OUT")
}

// write creates a file and hands its buffered writer to a producer.
func write(path string, produce func(*bufio.Writer) error) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(file)
	if err := produce(out); err != nil {
		file.Close()
		return err
	}
	if err := out.Flush(); err != nil {
		file.Close()
		return err
	}
	return file.Close()
}
