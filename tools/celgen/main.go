// Writes what upstream's CEL says of expressions: type or complaint, value or fault, run-time cost and estimated cost.
//
//	celgen OBJECT.json EXPRESSIONS.txt GOLDEN.jsonl
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/checker"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/ext"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"
)

type golden struct {
	Expression string  `json:"e"`
	Issues     string  `json:"issues,omitempty"`
	Type       string  `json:"type,omitempty"`
	Value      string  `json:"value,omitempty"`
	Fault      string  `json:"fault,omitempty"`
	Cost       *uint64 `json:"cost,omitempty"`
	Min        *uint64 `json:"min,omitempty"`
	Max        *uint64 `json:"max,omitempty"`
}

type sizes struct{}

func (sizes) EstimateSize(checker.AstNode) *checker.SizeEstimate { return nil }
func (sizes) EstimateCallCost(string, string, *checker.AstNode, []checker.AstNode) *checker.CallEstimate {
	return nil
}

func main() {
	object := map[string]any{}
	raw, err := os.ReadFile(os.Args[1])
	check(err)
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	check(decoder.Decode(&object))
	set := environment.MustBaseEnvSet(version.MajorMinor(1, 37))
	extended, err := set.Extend(environment.VersionedOptions{
		IntroducedVersion: version.MajorMinor(1, 0),
		EnvOptions: []cel.EnvOption{cel.Variable("object", cel.DynType), cel.Variable("text", cel.StringType),
			cel.Variable("texts", cel.ListType(cel.StringType)), environment.UnversionedLib(library.JSONPatch)},
	})
	check(err)
	env, err := extended.Env(environment.StoredExpressions)
	check(err)
	in, err := os.Open(os.Args[2])
	check(err)
	out, err := os.Create(os.Args[3])
	check(err)
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	vars := map[string]any{"object": numbers(object), "text": "some text", "texts": []string{"a", "bb", "ccc"}}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		check(encoder.Encode(ask(env, line, vars)))
	}
	check(out.Close())
}

func ask(env *cel.Env, expression string, vars map[string]any) (g golden) {
	g.Expression = expression
	ast, issues := env.Compile(expression)
	if issues != nil {
		g.Issues = issues.String()
		return g
	}
	g.Type = ast.OutputType().String()
	estimate, err := env.EstimateCost(ast, &library.CostEstimator{SizeEstimator: sizes{}})
	check(err)
	g.Min = &estimate.Min
	if estimate.Max != math.MaxUint64 {
		g.Max = &estimate.Max
	}
	program, err := env.Program(ast)
	if err != nil {
		g.Issues = err.Error()
		return g
	}
	value, details, err := program.Eval(vars)
	if details != nil {
		g.Cost = details.ActualCost()
	}
	if err != nil {
		g.Fault = err.Error()
		return g
	}
	g.Value = shown(value)
	return g
}

func shown(value ref.Val) string {
	if optional, ok := value.(*types.Optional); ok {
		if !optional.HasValue() {
			return "none"
		}
		return "optional(" + shown(optional.GetValue()) + ")"
	}
	if text, err := ext.FormatString(value, "en_US"); err == nil {
		return text
	}
	if text := value.ConvertToType(types.StringType); text.Type() == types.StringType {
		return text.Value().(string)
	}
	return value.Type().TypeName()
}

// Numbers as Kubernetes decodes them: int64 where they are whole.
func numbers(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for key, inner := range v {
			v[key] = numbers(inner)
		}
	case []any:
		for at, inner := range v {
			v[at] = numbers(inner)
		}
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64()
		return f
	}
	return value
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
