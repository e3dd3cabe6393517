-- Accuracies: Tables IV to VI, white box.

-- Every accuracy of every study and seed. Planned rows have no prediction: alone in their group they are a
-- hole. divisor: an iterative attack's epsilon over its step size. grid: the title without k and n. An accuracy
-- under attack is the paper's: of the attacked images, those that are classified right. It may exceed the clean one
-- (clean_accuracy), where an attack drives misclassified images onto their class; robust.sql counts none of those.
create view accuracies as
with predictions as (
    select study, access, name, method, settings, k, n, training_attack, training_epsilon, seed,
           attack, attack_method, norm, epsilon, step_size, label, prediction
    from evaluation where split = 'test'
    union all by name
    from planned where split = 'test'
), counted as (
    select study, access, name, any_value(method) as method, any_value(settings) as settings,
           any_value(k) as k, any_value(n) as n,
           any_value(training_attack) as training_attack, any_value(training_epsilon) as training_epsilon,
           seed, attack, any_value(attack_method) as attack_method, any_value(norm) as norm, epsilon, step_size,
           any_value(role) as role, any_value(stage) as stage, coalesce(any_value(title), name) as title,
           coalesce(any_value(attack_title), attack) as attack_title,
           count(prediction) as images, count(*) filter (prediction = label) as hits,
           min(position) as position
    from predictions
    group by study, access, name, seed, attack, epsilon, step_size
)
select c.study, s.dataset, s.paper as paper_dataset, c.* exclude (study, images, hits, position),
       without_k_and_n(c.title) as grid, round(epsilon / step_size, 3) as divisor,
       images, 100 * hits / nullif(images, 0) as accuracy,
       case when images > 0 then wilson_low(hits, images) end as low,
       case when images > 0 then wilson_high(hits, images) end as high,
       max(100 * hits / nullif(images, 0)) filter (access = 'clean') over (partition by c.study, name, seed)
           as clean_accuracy,
       c.position
from counted c join studies s on s.study = c.study;

-- Every accuracy of every study and seed, in the study's order.
create view seeds as from accuracies order by study, position nulls last, name, seed;

-- Clean images and attacks made on the base network, on every network.
create view black_box as
select a.study, a.dataset, a.paper_dataset, a.name, a.method, a.settings, a.k, a.n, a.training_attack,
       a.training_epsilon, a.seed, a.attack, a.attack_method, a.norm, a.epsilon, a.title, a.grid, a.attack_title,
       a.role, a.access, a.images, a.accuracy, a.low, a.high, a.clean_accuracy, p.accuracy as paper,
       differs_from_paper(a.accuracy, a.low, a.high, p.accuracy, p.dataset) as differs, a.position
from accuracies a
left join paper_black_box p
    on p.dataset = a.paper_dataset and p.method = a.method and p.attack = a.attack
    and a.role is distinct from 'control' and p.k is not distinct from a.k and p.n is not distinct from a.n and same_epsilon(p.epsilon, a.epsilon)
where a.access in ('clean', 'black_box')
order by a.study, a.position;

-- Table IV: networks on images made on the base network, MNIST.
create view table4 as
from black_box where role in ('base', 'defense') and paper_dataset = 'mnist';
-- Table V: the same, CIFAR-10.
create view table5 as
from black_box where role in ('base', 'defense') and paper_dataset = 'cifar10';
-- Table VI: the same, Tiny ImageNet.
create view table6 as
from black_box where role in ('base', 'defense') and paper_dataset = 'tinyimagenet';

-- Attacks made against each network itself (V-E), a row for each step size = epsilon / divisor; divisor is null
-- for attacks without steps.
create view white_box as
select study, dataset, name, method, settings, k, n, training_attack, training_epsilon, seed,
       attack, attack_method, norm, epsilon, step_size, divisor, title, grid, name as line, attack_title,
       role, access, stage, images, accuracy, low, high, clean_accuracy, unreadable(paper_dataset) as paper,
       position
from accuracies where access = 'white_box'
order by study, position nulls last, name, seed, epsilon, divisor;

-- Seconds of attacking an image, of every attack on the network that it was made on: for the black box the base
-- network's, in the white box each.
create view timing as
select study, access, name, any_value(method) as method, seed, attack,
       any_value(attack_method) as attack_method, epsilon, step_size, count(*) as images,
       avg(attack_s) as attack_s
from (
    select *, 'black_box' as access from attack where split = 'test'
    union all by name
    from evaluation where access = 'white_box' and split = 'test'
)
group by study, access, name, seed, attack, epsilon, step_size
order by study, access, name, seed, attack, epsilon nulls first, step_size;
