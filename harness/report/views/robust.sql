-- Robust accuracy, image by image; the bound put to the test.
--
-- An image is robust at a radius where the network is right on the clean image AND no image made from it that was
-- measured, by whatever attack, both lies within the radius and is misclassified. Only measured sizes count, so that
-- attacks of smaller radii, of other norms and minimum-norm attacks count as well as those made for the radius.

-- Whether a change lies within a radius, with the tolerance that attacks are held to (harness/attacks/attack.py).
create macro within(size, norm, epsilon) as
    size <= epsilon * (1 + case when norm in ('l1', 'l2') then 1e-4 else 0 end) + 1e-6;

create macro in_norm(norm, l0, l1, l2, linf) as
    case norm when 'linf' then linf when 'l2' then l2 when 'l1' then l1 when 'l0' then l0 end;

-- What lists of attacks call one: those made on the base network are its white box.
create macro of_access(attack_title, access, method) as
    attack_title || if(access = 'black_box' and method <> 'base', ' (black box)', '');

-- Whether a network is right on each clean test image.
create view clean as
select study, name, seed, image_id, label, prediction = label as is_right
from evaluation where split = 'test' and access = 'clean';

-- Attacked test images that the network is right on when they are clean, with the measured size of the change:
-- that of images made on another network stands in table attack.
create view attacked as
select e.study, e.name, e.seed, e.access, e.attack, e.norm, e.epsilon, e.step_size, e.image_id,
       e.prediction <> e.label as fooled, coalesce(e.l0, a.l0) as l0, coalesce(e.l1, a.l1) as l1,
       coalesce(e.l2, a.l2) as l2, coalesce(e.linf, a.linf) as linf, coalesce(e.mean_l1, a.mean_l1) as mean_l1
from evaluation e
join clean c
    on c.study = e.study and c.name = e.name and c.seed = e.seed and c.image_id = e.image_id and c.is_right
left join attack a
    on a.split = 'test' and a.study = e.study and a.name = e.source and a.seed = e.seed and a.attack = e.attack
    and a.epsilon is not distinct from e.epsilon and a.step_size is not distinct from e.step_size
    and a.image_id = e.image_id
where e.split = 'test' and e.access <> 'clean';

-- The test images that a study's white box attacks; all where it has attacked none yet.
create view in_white_box as
with measured as (select distinct study, image_id from evaluation where split = 'test' and access = 'white_box')
from measured
union all
select distinct study, image_id from clean where study not in (select study from measured);

-- The smallest change found that fools a network, of every test image in the white box and in each norm by itself:
-- null where none was found, and where the network errs on the clean image (is_right tells).
create view smallest_change as
with found as (
    select study, name, seed, image_id, min(l0) as l0, min(l1) as l1, min(l2) as l2, min(linf) as linf,
           min(mean_l1) as mean_l1
    from attacked where fooled group by study, name, seed, image_id
)
from clean semi join in_white_box using (study, image_id) left join found using (study, name, seed, image_id);

-- What a study's networks are to withstand: norm and radius of the attacks that the white box plans.
create view threat_models as
select study, norm, min(epsilon) as epsilon, count(distinct attack) as attacks
from planned
where split = 'test' and access = 'white_box' and epsilon is not null and norm in ('l0', 'l1', 'l2', 'linf')
group by study, norm, round(epsilon, 9);

-- Which attacks count for a threat model: those made for it (in its norm, with no larger radius or with the smallest
-- change as the aim), and every other that broke an image within the radius.
create view coverage as
with measured as (
    select study, name, seed, access, attack, epsilon, step_size, count(*) as images,
           min(l0) filter (fooled) as l0, min(l1) filter (fooled) as l1,
           min(l2) filter (fooled) as l2, min(linf) filter (fooled) as linf
    from attacked group by study, name, seed, access, attack, epsilon, step_size
)
select t.study, t.norm, t.epsilon, p.name, p.seed, p.access, p.attack, p.stage, p.position,
       of_access(p.attack_title, p.access, p.method) as attack_title,
       m.images is not null as is_measured,
       p.access = 'white_box' and p.norm = t.norm and same_epsilon(p.epsilon, t.epsilon) as is_own
from planned p
join threat_models t on t.study = p.study
left join measured m
    on m.study = p.study and m.name = p.name and m.seed = p.seed and m.access = p.access and m.attack = p.attack
    and m.epsilon is not distinct from p.epsilon and m.step_size is not distinct from p.step_size
where p.split = 'test' and p.access <> 'clean'
    and (p.norm = t.norm and (p.epsilon is null or p.epsilon <= t.epsilon + 1e-9)
         or within(in_norm(t.norm, m.l0, m.l1, m.l2, m.linf), t.norm, t.epsilon));

-- Every clean test image of every network at every threat model.
create view robust_images as
select s.study, t.norm, t.epsilon, s.name, s.seed, s.image_id,
       s.is_right and not coalesce(within(in_norm(t.norm, s.l0, s.l1, s.l2, s.linf), t.norm, t.epsilon), false)
           as is_right, s.is_right as is_clean_right
from smallest_change s join threat_models t on t.study = s.study;

-- Robust accuracy of each seed's network.
--   attacks        that count (see coverage); missing: planned for this threat model and not measured, so that the
--                  accuracy is an upper bound
--   is_complete    nothing is missing, and an attack on the network itself was made for this threat model: without
--                  one the accuracy compares with none
create view robust as
with counted as (
    select study, norm, epsilon, name, seed, count(*) as images,
           count(*) filter (is_right) as hits, count(*) filter (is_clean_right) as clean_hits
    from robust_images group by study, norm, epsilon, name, seed
), covered as (  -- of a worst case that goes on, what it has so far, as long as something is missing
    select study, norm, epsilon, name, seed,
           coalesce(list_distinct(list(attack_title) filter (is_measured and not stage)), []) as attacks,
           coalesce(list_distinct(list(attack_title) filter (is_measured and stage)), []) as stages,
           coalesce(list_distinct(list(attack_title) filter (not is_measured and not stage)), []) as missing,
           coalesce(bool_or(is_own and is_measured), false) as is_attacked
    from (from coverage order by position) group by study, norm, epsilon, name, seed
)
select n.study, s.dataset, t.norm, t.epsilon, n.name, n.method, n.role, n.title, without_k_and_n(n.title) as grid, n.seed,
       coalesce(c.images, 0) as images, c.hits, 100 * c.hits / c.images as accuracy,
       wilson_low(c.hits, c.images) as low, wilson_high(c.hits, c.images) as high,
       100 * c.clean_hits / c.images as clean_accuracy,
       list_sort(coalesce(if(len(v.missing) > 0, list_concat(v.attacks, v.stages), v.attacks), [])) as attacks,
       list_sort(coalesce(v.missing, [])) as missing,
       coalesce(c.images > 0 and len(v.missing) = 0 and v.is_attacked, false) as is_complete, n.position
from networks n
join studies s on s.study = n.study
join threat_models t on t.study = n.study
left join counted c
    on c.study = n.study and c.name = n.name and c.seed = n.seed and c.norm = t.norm and c.epsilon = t.epsilon
left join covered v
    on v.study = n.study and v.name = n.name and v.seed = n.seed and v.norm = t.norm and v.epsilon = t.epsilon
order by n.study, t.norm, t.epsilon, n.position;

-- The bound put to the test: 'robust within the imperceptible bound' is refuted at an image where some change that
-- fools the network has a mean l1 of at most sigma(k) of the image's own. Of the images that are right when clean.
--   median_ratio    smallest mean l1 found that fools, over sigma: infinite where it was found for less than half
create view bound_test as
with ks as (
    select study, k from planned where method = 'imperceptible_bound' and k is not null group by study, k
    union all
    select study, unnest([1, 2, 2.5, 3]::double[]) from studies
    where study not in (select study from planned where method = 'imperceptible_bound' and k is not null)
), own as (
    select b.study, b.image_id, b.distance
    from bound b join studies s on s.study = b.study and s.neighbours = b.neighbours
    where b.split = 'test'
), tested as (
    select c.study, c.name, c.seed, ks.k, count(*) as images,
           count(*) filter (c.mean_l1 <= sigma(own.distance, ks.k)) as refuted,
           count(c.mean_l1) as fooled,
           median(coalesce(c.mean_l1 / nullif(sigma(own.distance, ks.k), 0), 'infinity')) as median_ratio
    from smallest_change c
    join own on own.study = c.study and own.image_id = c.image_id
    join ks on ks.study = c.study
    where c.is_right group by c.study, c.name, c.seed, ks.k
), fooling as (
    select study, name, seed, list_sort(list(distinct of_access(attack_title, access, method))) as attacks
    from accuracies where access <> 'clean' and images > 0 and stage is not true group by study, name, seed
)
select n.study, s.dataset, s.neighbours, n.name, n.method, n.role, n.title,
       without_k_and_n(n.title) as grid, n.seed, ks.k, coalesce(t.images, 0) as images,
       100 * t.refuted / t.images as refuted,
       wilson_low(t.refuted, t.images) as low, wilson_high(t.refuted, t.images) as high,
       100 * t.fooled / t.images as fooled, t.median_ratio, f.attacks, n.position
from networks n
join studies s on s.study = n.study
join ks on ks.study = n.study
left join tested t on t.study = n.study and t.name = n.name and t.seed = n.seed and t.k = ks.k
left join fooling f on f.study = n.study and f.name = n.name and f.seed = n.seed
order by n.study, ks.k, n.position;
