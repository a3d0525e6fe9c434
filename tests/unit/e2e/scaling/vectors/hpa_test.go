// Writes what the HorizontalPodAutoscaler's own controller answers to random histories.
//
// The controller is the one that kube-controller-manager runs. It lives in a bubble of virtual time, with a
// clientset, a scale client and a metrics client that are fakes. It reconciles every 15 s; before each time
// the load and the pods are set, after it spec.replicas is read. From this folder:
//
//	go test -modfile ../../../../../e2e/cluster/local/go.mod -run Histories -count 1 .
package vectors

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	scalefake "k8s.io/client-go/scale/fake"
	core "k8s.io/client-go/testing"
	"k8s.io/kubernetes/pkg/controller/podautoscaler"
	"k8s.io/kubernetes/pkg/controller/podautoscaler/metrics"
)

type step struct {
	Spec     int32   `json:"spec"`
	Ready    int     `json:"ready"`
	Pending  int     `json:"pending"`
	Usage    int64   `json:"usage"`
	Measured []int64 `json:"measured"`
	Wanted   int32   `json:"wanted"`
}

type policy struct {
	Unit    string `json:"unit"`
	Value   int32  `json:"value"`
	Seconds int32  `json:"seconds"`
}

type rules struct {
	Window int32    `json:"window"`
	Steps  []policy `json:"steps"`
	Select string   `json:"select"`
}

type history struct {
	Metric string `json:"metric"`
	Target int64  `json:"target"`
	Least  int32  `json:"least"`
	Most   int32  `json:"most"`
	Up     *rules `json:"up"`
	Down   *rules `json:"down"`
	Steps  []step `json:"steps"`
}

// world is what the controller sees: a deployment's scale, its pods and their metrics.
type world struct {
	spec, status int32
	usage        int64
	measured     map[string]int64
}

func (w *world) GetExternalMetric(string, string, labels.Selector) ([]int64, time.Time, error) {
	return []int64{w.usage}, time.Now(), nil
}

func (w *world) GetRawMetric(string, string, labels.Selector, labels.Selector) (metrics.PodMetricsInfo, time.Time, error) {
	info := metrics.PodMetricsInfo{}
	for name, value := range w.measured {
		info[name] = metrics.PodMetric{Timestamp: time.Now(), Window: time.Minute, Value: value}
	}
	if len(info) == 0 {
		return nil, time.Time{}, fmt.Errorf("no pod has a value")
	}
	return info, time.Now(), nil
}

func (w *world) GetObjectMetric(string, string, *autoscaling.CrossVersionObjectReference, labels.Selector) (int64, time.Time, error) {
	return w.usage, time.Now(), nil
}

func (w *world) GetResourceMetric(context.Context, corev1.ResourceName, string, labels.Selector, string) (metrics.PodMetricsInfo, time.Time, error) {
	return nil, time.Time{}, fmt.Errorf("not asked for")
}

func (w *world) scale() *autoscalingv1.Scale {
	return &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "ns"},
		Spec:       autoscalingv1.ScaleSpec{Replicas: w.spec},
		Status:     autoscalingv1.ScaleStatus{Replicas: w.status, Selector: "app=d"},
	}
}

func (w *world) scaleClient() *scalefake.FakeScaleClient {
	client := &scalefake.FakeScaleClient{}
	client.AddReactor("get", "deployments", func(core.Action) (bool, runtime.Object, error) { return true, w.scale(), nil })
	client.AddReactor("update", "deployments", func(action core.Action) (bool, runtime.Object, error) {
		w.spec = action.(core.UpdateAction).GetObject().(*autoscalingv1.Scale).Spec.Replicas
		return true, w.scale(), nil
	})
	return client
}

func (h *history) object() *autoscaling.HorizontalPodAutoscaler {
	target := resource.NewMilliQuantity(h.Target, resource.DecimalSI)
	metric := autoscaling.MetricIdentifier{Name: "m"}
	spec := autoscaling.MetricSpec{
		Type: autoscaling.ExternalMetricSourceType,
		External: &autoscaling.ExternalMetricSource{
			Metric: metric, Target: autoscaling.MetricTarget{Type: autoscaling.AverageValueMetricType, AverageValue: target},
		},
	}
	switch h.Metric {
	case "value":
		spec.External.Target = autoscaling.MetricTarget{Type: autoscaling.ValueMetricType, Value: target}
	case "pods":
		spec = autoscaling.MetricSpec{
			Type: autoscaling.PodsMetricSourceType,
			Pods: &autoscaling.PodsMetricSource{
				Metric: metric, Target: autoscaling.MetricTarget{Type: autoscaling.AverageValueMetricType, AverageValue: target},
			},
		}
	}
	hpa := &autoscaling.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "h", Namespace: "ns"},
		Spec: autoscaling.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscaling.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "d"},
			MinReplicas:    &h.Least, MaxReplicas: h.Most, Metrics: []autoscaling.MetricSpec{spec},
		},
	}
	if h.Up != nil {
		hpa.Spec.Behavior = &autoscaling.HorizontalPodAutoscalerBehavior{ScaleUp: h.Up.object(), ScaleDown: h.Down.object()}
	}
	return hpa
}

func (r *rules) object() *autoscaling.HPAScalingRules {
	chosen := autoscaling.ScalingPolicySelect(r.Select)
	object := &autoscaling.HPAScalingRules{StabilizationWindowSeconds: &r.Window, SelectPolicy: &chosen}
	for _, p := range r.Steps {
		object.Policies = append(object.Policies, autoscaling.HPAScalingPolicy{
			Type: autoscaling.HPAScalingPolicyType(p.Unit), Value: p.Value, PeriodSeconds: p.Seconds,
		})
	}
	return object
}

func pod(name string, phase corev1.PodPhase) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", Labels: map[string]string{"app": "d"}},
		Status: corev1.PodStatus{Phase: phase, Conditions: []corev1.PodCondition{{
			Type: corev1.PodReady, Status: map[bool]corev1.ConditionStatus{true: corev1.ConditionTrue, false: corev1.ConditionFalse}[phase == corev1.PodRunning],
		}}},
	}
}

// arrange makes the pods of one step: the first ones are measured, the last ones are pending, those between run unmeasured.
func arrange(t *testing.T, client *fake.Clientset, w *world, s *step) {
	pods := client.CoreV1().Pods("ns")
	old, _ := pods.List(t.Context(), metav1.ListOptions{})
	for _, p := range old.Items {
		_ = pods.Delete(t.Context(), p.Name, metav1.DeleteOptions{})
	}
	w.measured = map[string]int64{}
	for i := range int(w.spec) {
		name, phase := fmt.Sprintf("p-%d", i), corev1.PodRunning
		if i >= int(w.spec)-s.Pending {
			phase = corev1.PodPending
		}
		if i < len(s.Measured) {
			w.measured[name] = s.Measured[i]
		}
		_, _ = pods.Create(t.Context(), pod(name, phase), metav1.CreateOptions{})
	}
}

func play(t *testing.T, r *rand.Rand, h *history, steps int) {
	ctx, cancel := context.WithCancel(context.Background())
	w := &world{spec: 1 + r.Int31n(h.Most), measured: map[string]int64{}}
	client := fake.NewClientset(h.object())
	factory := informers.NewSharedInformerFactory(client, 0)
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{appsv1.SchemeGroupVersion})
	mapper.Add(appsv1.SchemeGroupVersion.WithKind("Deployment"), meta.RESTScopeNamespace)
	controller := podautoscaler.NewHorizontalController(
		ctx, client.CoreV1(), w.scaleClient(), client.AutoscalingV2(), mapper, w,
		factory.Autoscaling().V2().HorizontalPodAutoscalers(), factory.Core().V1().Pods(),
		15*time.Second, 5*time.Minute, 0.1, 5*time.Minute, 30*time.Second,
	)
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	go controller.Run(ctx, 1)
	synctest.Wait()
	time.Sleep(14 * time.Second)
	load := h.Target * int64(w.spec)
	for range steps {
		switch r.Intn(8) {
		case 0:
			load = r.Int63n(h.Target*int64(h.Most)) * r.Int63n(130) / 100
		case 1, 2:
			load += (r.Int63n(41) - 20) * h.Target / 20
		}
		load = max(0, load)
		if r.Intn(25) == 0 {
			w.spec = 1 + r.Int31n(h.Most+2)
		}
		s := step{Spec: w.spec, Usage: load, Ready: 1 + r.Intn(int(max(1, w.spec)))}
		if h.Metric == "pods" {
			s.Pending = r.Intn(1 + int(w.spec) - min(s.Ready, int(w.spec)))
			for range min(s.Ready, int(w.spec)) {
				s.Measured = append(s.Measured, max(0, load/int64(max(1, w.spec))+r.Int63n(h.Target)-h.Target/2))
			}
			arrange(t, client, w, &s)
		} else if h.Metric == "value" {
			s.Pending = max(0, int(w.spec)-s.Ready)
			s.Ready = int(w.spec) - s.Pending
			arrange(t, client, w, &s)
		}
		w.status, w.usage = w.spec, load
		synctest.Wait()
		time.Sleep(15 * time.Second)
		synctest.Wait()
		s.Wanted = w.spec
		h.Steps = append(h.Steps, s)
	}
	cancel()
	factory.Shutdown()
}

func TestHistories(t *testing.T) {
	// The default handlers hold back by the clock outside the bubble.
	utilruntime.ErrorHandlers = []utilruntime.ErrorHandler{
		func(_ context.Context, err error, message string, _ ...any) { t.Errorf("%s: %v", message, err) },
	}
	wva := []policy{{"Pods", 10, 150}}
	fast := &rules{0, []policy{{"Pods", 4, 15}, {"Percent", 100, 15}}, "Max"}
	histories := []*history{
		{Metric: "average", Target: 5600, Least: 1, Most: 40},
		{Metric: "average", Target: 5000, Least: 2, Most: 200},
		{Metric: "average", Target: 5600, Least: 1, Most: 60, Up: fast, Down: &rules{300, []policy{{"Percent", 100, 15}}, "Max"}},
		{Metric: "average", Target: 1000, Least: 1, Most: 60, Up: &rules{240, wva, "Max"}, Down: &rules{240, wva, "Max"}},
		{Metric: "average", Target: 2000, Least: 1, Most: 50, Up: &rules{30, []policy{{"Pods", 3, 60}, {"Percent", 30, 45}}, "Min"}, Down: &rules{60, []policy{{"Percent", 10, 60}, {"Pods", 2, 30}}, "Min"}},
		{Metric: "value", Target: 3000, Least: 1, Most: 30},
		{Metric: "pods", Target: 5600, Least: 1, Most: 30},
		{Metric: "pods", Target: 5600, Least: 1, Most: 30, Up: fast, Down: &rules{120, []policy{{"Percent", 50, 60}}, "Max"}},
	}
	for i, h := range histories {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { play(t, rand.New(rand.NewSource(int64(i+1))), h, 140) })
		})
	}
	text, err := json.Marshal(histories)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("hpa.json", append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
