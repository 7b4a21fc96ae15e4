package main

import "errors"

func writeGolden(fixtures, out string) error { return errors.New("not yet") }
