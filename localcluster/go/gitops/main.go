// Command gitops-check answers what GitOps tools conclude from an object. It reads one JSON request a line from its
// input and prints one JSON answer a line:
//
//	{"object": {...}}                        Argo CD's health, kstatus, and the actions that Argo CD offers
//	{"object": {...}, "action": "reset"}     the objects that this action creates or patches
//	{"object": {...}, "desired": {...}}      Argo CD's comparison of a live object with the one in Git
//
// Its argument is a patch of the ConfigMap argocd-cm, with the scripts. The health comes from Argo CD's own Lua machine,
// the comparison from its GitOps engine, and kstatus from the library that kubectl apply and Flux use.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strings"

	"github.com/argoproj/argo-cd/v3/pkg/apis/application/v1alpha1"
	"github.com/argoproj/argo-cd/v3/util/lua"
	"github.com/argoproj/gitops-engine/pkg/diff"
	"github.com/argoproj/gitops-engine/pkg/health"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/yaml"
)

type request struct {
	Object  *unstructured.Unstructured `json:"object"`
	Desired *unstructured.Unstructured `json:"desired"`
	Action  string                     `json:"action"`
}

type answer struct {
	Error         string                 `json:"error,omitempty"`
	Health        string                 `json:"health,omitempty"`
	HealthMessage string                 `json:"healthMessage,omitempty"`
	Status        string                 `json:"status,omitempty"`
	StatusMessage string                 `json:"statusMessage,omitempty"`
	Actions       []string               `json:"actions,omitempty"`
	Impacted      []lua.ImpactedResource `json:"impacted,omitempty"`
	OutOfSync     bool                   `json:"outOfSync,omitempty"`
	Live          json.RawMessage        `json:"live,omitempty"`
	Predicted     json.RawMessage        `json:"predicted,omitempty"`
}

// overrides are the scripts of a ConfigMap: resource.customizations.{health,actions}.GROUP_KIND.
func overrides(path string) (map[string]v1alpha1.ResourceOverride, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var config struct {
		Data map[string]string `json:"data"`
	}
	if err := yaml.UnmarshalStrict(text, &struct {
		APIVersion, Kind string
		Metadata         map[string]any
		Data             *map[string]string
	}{Data: &config.Data}); err != nil {
		return nil, err
	}
	found := map[string]v1alpha1.ResourceOverride{}
	for key, script := range config.Data {
		parts := strings.SplitN(strings.TrimPrefix(key, "resource.customizations."), ".", 2)
		if len(parts) != 2 {
			return nil, fmt.Errorf("%s: unknown key", key)
		}
		kind := strings.ReplaceAll(parts[1], "_", "/")
		override := found[kind]
		switch parts[0] {
		case "health":
			override.HealthLua = script
		case "actions":
			override.Actions = script
		default:
			return nil, fmt.Errorf("%s: unknown key", key)
		}
		found[kind] = override
	}
	return found, nil
}

func judge(machine lua.VM, asked request) (answer, error) {
	found, err := health.GetResourceHealth(asked.Object.DeepCopy(), lua.ResourceHealthOverrides(machine.ResourceOverrides))
	if err != nil {
		return answer{}, err
	}
	if found == nil {
		found = &health.HealthStatus{Status: "None"}
	}
	computed, err := status.Compute(asked.Object)
	if err != nil {
		return answer{}, err
	}
	scripts, err := machine.GetResourceActionDiscovery(asked.Object)
	if err != nil {
		return answer{}, err
	}
	names := []string{}
	if len(scripts) > 0 {
		actions, err := machine.ExecuteResourceActionDiscovery(asked.Object, scripts)
		if err != nil {
			return answer{}, err
		}
		for _, one := range actions {
			if !one.Disabled {
				names = append(names, one.Name)
			}
		}
	}
	sort.Strings(names)
	return answer{
		Health: string(found.Status), HealthMessage: found.Message,
		Status: computed.Status.String(), StatusMessage: computed.Message, Actions: names,
	}, nil
}

func act(machine lua.VM, asked request) (answer, error) {
	action, err := machine.GetResourceAction(asked.Object, asked.Action)
	if err != nil {
		return answer{}, err
	}
	impacted, err := machine.ExecuteResourceAction(asked.Object, action.ActionLua, nil)
	return answer{Impacted: impacted}, err
}

func compare(asked request) (answer, error) {
	found, err := diff.Diff(asked.Desired, asked.Object)
	if err != nil {
		return answer{}, err
	}
	return answer{OutOfSync: found.Modified, Live: found.NormalizedLive, Predicted: found.PredictedLive}, nil
}

func reply(machine lua.VM, line []byte) (answer, error) {
	var asked request
	if err := json.Unmarshal(line, &asked); err != nil {
		return answer{}, err
	}
	switch {
	case asked.Desired != nil:
		return compare(asked)
	case asked.Action != "":
		return act(machine, asked)
	default:
		return judge(machine, asked)
	}
}

func serve() error {
	scripts, err := overrides(os.Args[1])
	if err != nil {
		return err
	}
	machine := lua.VM{ResourceOverrides: scripts}
	input := bufio.NewReaderSize(os.Stdin, 1<<20)
	output := json.NewEncoder(os.Stdout)
	for {
		line, err := input.ReadBytes('\n')
		if len(line) == 0 && err != nil {
			return nil
		}
		found, err := reply(machine, line)
		if err != nil {
			found.Error = err.Error()
		}
		if err := output.Encode(found); err != nil {
			return err
		}
	}
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gitops-check ARGOCD-CM.yaml < requests")
		os.Exit(2)
	}
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
